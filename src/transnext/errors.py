"""Errors in one line, for people."""


def one_line(error: BaseException) -> str:
    """Text of an error without line breaks; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """An error in the system's own words if it has such, as "no space left on device"; else `one_line`."""
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else one_line(error)
