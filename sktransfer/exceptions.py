"""Every public error and warning; each formats its own message.

All of them are also the built-in error a user of scikit-learn would catch, so
``except ValueError`` goes on working.
"""

__all__ = [
    "BackboneNotFoundError",
    "EngineError",
    "FeatureCacheError",
    "FeatureCacheWarning",
    "ImageShapeError",
    "InvalidImageError",
    "MissingDependencyError",
    "SktransferError",
    "WeightsDownloadError",
    "WeightsMismatchError",
]

_MAX_LISTED = 10


class SktransferError(Exception):
    """Base class of every error that sktransfer raises on its own account."""


class InvalidImageError(SktransferError, ValueError):
    """Some rows hold no readable image.

    All rows of the input are read before this is raised, so that a folder is mended in
    one round. The message lists the first ten.

    Parameters
    ----------
    problems : list of (int, str)
        Row number, from 0, and what is wrong with the image of that row.
    n_rows : int
        Number of rows of the whole input.
    hint : str, default=""
        What else the caller offers, as a sentence.
    """

    def __init__(self, problems, n_rows, hint=""):
        super().__init__(problems, n_rows, hint)
        self.problems = list(problems)
        self.n_rows = n_rows
        self.hint = hint

    def __str__(self):
        """Format the message: count, the first ten rows, what to do."""
        listed = [f"Row {row}: {what}" for row, what in self.problems[:_MAX_LISTED]]
        more = len(self.problems) - len(listed)
        if more:
            listed.append(f"... and {more} more (all in the attribute `problems`)")
        advice = f"Replace or drop these rows. {self.hint}".rstrip()
        return "\n".join(
            [
                f"{len(self.problems)} of {self.n_rows} rows hold no readable image.",
                *(f"  {line}" for line in listed),
                advice,
            ]
        )


class ImageShapeError(SktransferError, ValueError):
    """The shape, dtype or range of an array does not fit an array of images.

    Parameters
    ----------
    where : str
        The row or parameter.
    found : str
        What was found there.
    expected : str
        What was expected, and what to do.
    """

    def __init__(self, where, found, expected):
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self):
        """Format the message as where, found, expected."""
        return f"{self.where}: found {self.found}. {self.expected}"


class BackboneNotFoundError(SktransferError, ValueError):
    """No backbone has this name.

    Parameters
    ----------
    name : str
        The name that was asked for.
    nearest : list of str
        The most similar names there are.
    """

    def __init__(self, name, nearest):
        super().__init__(name, nearest)
        self.name, self.nearest = name, list(nearest)

    def __str__(self):
        """Format the message with the nearest names."""
        near = " or ".join(repr(name) for name in self.nearest)
        suggestion = f" Did you mean {near}?" if near else ""
        return (
            f"There is no backbone named {self.name!r}.{suggestion} "
            "sktransfer.backbones.list_backbones() lists the names. A name of your own "
            "has to be registered in each process, workers too; a callable needs none."
        )


class FeatureCacheError(SktransferError, OSError):
    """A file cannot serve as feature cache.

    Parameters
    ----------
    path : str
        The file.
    reason : str
        What is wrong with it.
    advice : str
        What to do, as a sentence.
    """

    def __init__(self, path, reason, advice):
        super().__init__(path, reason, advice)
        self.path, self.reason, self.advice = path, reason, advice

    def __str__(self):
        """Format the message as file, reason, advice."""
        return (
            f"The file {self.path!r} cannot serve as feature cache: {self.reason}. "
            f"{self.advice}"
        )


class FeatureCacheWarning(UserWarning):
    """A feature cache works more slowly than it could, or no longer; results hold."""


class WeightsMismatchError(SktransferError, ValueError):
    """Weights that do not fit the backbone, or are not the ones they are said to be.

    Parameters
    ----------
    weights : str
        The weights that were asked for, or the file.
    backbone : str
        Name of the backbone.
    reason : str
        What does not fit.
    advice : str, default=""
        What to do, as a sentence.
    """

    def __init__(self, weights, backbone, reason, advice=""):
        super().__init__(weights, backbone, reason, advice)
        self.weights, self.backbone = weights, backbone
        self.reason, self.advice = reason, advice

    def __str__(self):
        """Format the message as weights, backbone, reason, advice."""
        return (
            f"The weights {self.weights} do not fit the backbone {self.backbone!r}: "
            f"{self.reason}. {self.advice}"
        ).rstrip()


class WeightsDownloadError(SktransferError, ConnectionError):
    """Pretrained weights could not be downloaded.

    Parameters
    ----------
    url : str
        Where the file was looked for.
    path : str
        Where the file belongs on this machine.
    reason : str
        The last error.
    """

    def __init__(self, url, path, reason):
        super().__init__(url, path, reason)
        self.url, self.path, self.reason = url, path, reason

    def __str__(self):
        """Format the message with the file to place by hand."""
        return (
            f"The pretrained weights could not be downloaded from {self.url} "
            f"({self.reason}). Without a connection, put that file at {self.path} (the "
            "folder follows TORCH_HOME), pass weights='PATH' to a file you have, or "
            "use backbone='mini', whose weights come with sktransfer."
        )


class EngineError(SktransferError, RuntimeError):
    """An engine cannot run this network, or not as it should.

    Parameters
    ----------
    engine : str
        The value of the parameter `engine`.
    reason : str
        What went wrong.
    advice : str
        What to do, as a sentence.
    """

    def __init__(self, engine, reason, advice):
        super().__init__(engine, reason, advice)
        self.engine, self.reason, self.advice = engine, reason, advice

    def __str__(self):
        """Format the message as engine, reason, advice."""
        return f"engine={self.engine!r}: {self.reason}. {self.advice}"


class MissingDependencyError(SktransferError, ImportError):
    """A package is missing that only this feature needs.

    Parameters
    ----------
    package : str
        The module that cannot be imported.
    extra : str
        The extra of sktransfer that installs it.
    needed_by : str
        What asked for it.
    reason : str
        The error of the import.
    """

    def __init__(self, package, extra, needed_by, reason):
        super().__init__(package, extra, needed_by, reason)
        self.package, self.extra = package, extra
        self.needed_by, self.reason = needed_by, reason

    def __str__(self):
        """Format the message with the command that installs it."""
        return (
            f"{self.needed_by} needs the package {self.package}, which cannot be "
            f"imported ({self.reason}). Install it with: "
            f"pip install 'sktransfer[{self.extra}]'"
        )
