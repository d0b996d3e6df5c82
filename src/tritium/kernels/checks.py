"""Turns what the native module refuses into the project's own error."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def refuses_bad_arrays(kernel: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Makes `kernel` raise ValidationError where the native module refuses a dtype, a shape or a bound."""

    @wraps(kernel)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        try:
            return kernel(*args, **kwargs)
        except ValueError as error:
            raise ValidationError(f"{kernel.__name__}: {error}") from error
        except TypeError as error:
            raise ValidationError(
                f"{kernel.__name__}: an argument has the wrong type; it takes numpy arrays in CPU memory "
                "(writable where it writes) and plain numbers that fit its parameters."
            ) from error

    return checked
