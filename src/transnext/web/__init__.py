"""The explorer: a page on which a picture is asked where the model looks, as one file or from a local server."""
