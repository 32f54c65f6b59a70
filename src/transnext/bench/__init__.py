"""Cost of models: time, memory and multiply-adds, beside other models, measured in turn on this machine.

`config` says what to measure, `run` measures it, `results` holds it, `table` and `figure` show it.
"""
