"""The one place that knows the extras: packages that only some features need."""

from importlib import import_module

from sktransfer.exceptions import MissingDependencyError


def require(name, *, extra, needed_by):
    """Import a package that is not installed with sktransfer itself.

    Parameters
    ----------
    name : str
        Name of the module to import.
    extra : str
        The extra of sktransfer that installs it.
    needed_by : str
        What the user asked for, as written: ``"engine='onnxruntime'"``.

    Returns
    -------
    module
        The module.

    Raises
    ------
    MissingDependencyError
        If it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(name, extra, needed_by, str(error)) from error
