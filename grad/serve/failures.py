"""What a request can be wrong in: one sentence and its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from grad.system.errors import GradError, first_line


class Refused(HTTPException):
    """A request that is not answered with a result.

    Args:
        status: HTTP status code.
        sentence: what was wrong and what to do.
        headers: to send along.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, sentence, headers)


def bad_request(sentence: str) -> Refused:
    """400: the request does not make sense as it is."""
    return Refused(400, sentence)


def too_slow(seconds: float) -> Refused:
    """408: the upload took too long."""
    return Refused(408, f"The upload was not complete after {seconds:g} s: send it again.")


def too_large(what: str, limit: str) -> Refused:
    """413: more than the server takes."""
    return Refused(413, f"{what}; this server takes at most {limit}.")


def unsupported(content_type: str) -> Refused:
    """415: neither an image nor a form with one."""
    return Refused(
        415,
        f"The content type {content_type} can't be inspected: send the bytes of an image "
        "(as image/png or application/octet-stream, say) or multipart/form-data with a file.",
    )


def unreadable(reason: str) -> Refused:
    """422: the upload is no image that can be decoded."""
    return Refused(422, f"The image can't be read: {reason}; send another.")


def unknown_class(class_name: str, classes: Sequence[str]) -> Refused:
    """422: a class that the model was not trained on."""
    return Refused(
        422,
        f"The model was not trained on class {class_name}: choose among {', '.join(classes)}, "
        "or name none.",
    )


def class_needed(classes: Sequence[str]) -> Refused:
    """422: classes have different regions of interest, and none was named."""
    return Refused(
        422,
        "The model's classes have different regions of interest: name the image's class, "
        f"{', '.join(classes)}.",
    )


def unknown_parameter(name: str, known: Sequence[str]) -> Refused:
    """422: a parameter that does not exist, misspelt perhaps."""
    return Refused(422, f"There is no parameter {name}: choose among {', '.join(known)}.")


def wrong_parameter(error: Mapping[str, Any]) -> Refused:
    """422: a value that a parameter can't have; as FastAPI tells it."""
    return Refused(422, f"The parameter {error['loc'][-1]} is wrong: {error['msg'].lower()}.")


def no_feedback() -> Refused:
    """404: the server keeps no feedback."""
    return Refused(404, "This server keeps no feedback: start it with --feedback DIR.")


def feedback_full(limit: str) -> Refused:
    """507: the folder of feedback holds as much as it may."""
    return Refused(
        507,
        f"The folder of feedback holds {limit}, the most it takes: let the model learn from them, "
        "then move them elsewhere.",
    )


def no_class(classes: Sequence[str]) -> Refused:
    """422: something that is of one class, and none was named."""
    return Refused(422, f"Of which class is it? Choose among {', '.join(classes)}.")


def no_token() -> Refused:
    """403: only who knows a token may change a model."""
    return Refused(
        403,
        "Changing the model needs a token: start the server with GRAD_TOKEN in its environment.",
    )


def not_done(error: GradError, status: int = 409) -> Refused:
    """409: what was asked for can't be done now, or not with this model."""
    return Refused(status, str(error))


def failed(error: Exception) -> Refused:
    """500: the network failed, which is no fault of the image."""
    reason = f"{type(error).__name__}: {first_line(error)}"
    return Refused(500, f"Scoring failed ({reason}): the server's log says more.")


def queue_full(limit: int) -> Refused:
    """503: as many images as the server holds are waiting for their answer."""
    return Refused(
        503, f"{limit} images are waiting already: try again in a second.", {"Retry-After": "1"}
    )
