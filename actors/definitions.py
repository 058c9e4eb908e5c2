"""What an actor is: a function with a name, a queue and a policy. Defining one touches nothing else."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Generic, ParamSpec, TypeVar, get_args, get_type_hints, overload

import msgspec

from actors import backoff as backoffs
from actors.errors import DefinitionError
from actors.fields import refused
from actors.fingerprint import Origin, origin_of
from actors.limits import MOST_AT_ONCE, check_path, limited
from actors.submission import Defaults, Order, task_of
from tasks.errors import InvalidField
from tasks.names import check_queue
from tasks.values import NewTask

P = ParamSpec("P")
R = TypeVar("R")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
DEFAULT_QUEUE = "default"
MOST_TIMEOUT = 30 * 86_400.0
MOST_CACHE = 3_660 * 86_400.0
MOST_VERSION = 200
_BY_NAME_ALONE = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How tasks of a type run unless a task says otherwise. ``timeout`` is in seconds.

    ``isolated`` tasks run in a process of their own, which is killed when their time is up. For ``cache``
    seconds an output answers for the same input, as long as ``code_version`` is the same too. No more than
    ``concurrency`` of them run at once, or of those that are alike in what ``concurrency_key`` names.
    """

    queue: str = DEFAULT_QUEUE
    max_retries: int | None = None
    timeout: float | None = None
    backoff: dict[str, Any] | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    isolated: bool = False
    cache: float | None = None
    code_version: str | None = None
    #: What makes the outputs that are kept: found out once, when the actor is defined.
    origin: Origin | None = None
    concurrency: int | None = None
    concurrency_key: str | None = None


class Actor(Generic[P, R]):
    """A function that can be asked for as a task. Called directly it is just the function."""

    #: Whether tasks of this type can be asked for: a stage is a part of its pipelines alone.
    is_whole: ClassVar[bool] = True

    def __init__(self, function: Callable[P, R], name: str, policy: Policy) -> None:
        if not NAME.fullmatch(name):
            raise DefinitionError(f"{name!r} cannot name a task type: use letters, digits and _ . : -")
        self.function = function
        self.name = name
        self.policy = _with_origin(policy, function, name)
        self.payload_type, self.result_type, self.takes_payload = _signature(function, name)
        #: Whether it is a generator: its result is the list of what it yields.
        self.yields = inspect.isgeneratorfunction(function)
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, without a task."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def parse(self, payload: Any) -> Any:
        """The payload as the type that the function asks for.

        Raises:
          InvalidField: it does not fit; the field is named below ``payload``.
        """
        return convert(payload, self.payload_type, "payload")

    def tasks(self, order: Order, defaults: Defaults) -> list[NewTask]:
        """The task of an order.

        Raises:
          InvalidField: the payload does not fit.
        """
        self.parse(order.payload)
        policy = self.policy
        task = task_of(order, defaults, policy.queue, policy.max_retries, policy.timeout, policy.backoff)
        return [limited(task, policy)]

    def run(self, payload: Any) -> Any:
        """Call the function with a payload as it came out of the record."""
        function: Callable[..., Any] = self.function
        return function(self.parse(payload)) if self.takes_payload else function()


def _with_origin(policy: Policy, function: Callable[..., Any], name: str) -> Policy:
    """The policy; if outputs are kept, with what makes them."""
    if policy.cache is None or policy.origin is not None:
        return policy
    try:
        return msgspec.structs.replace(policy, origin=origin_of(function, policy.code_version))
    except DefinitionError as error:
        raise DefinitionError(f"outputs of {name} cannot be kept: {error}") from error


def convert(value: Any, wanted: Any, field: str) -> Any:
    """``value`` (builtins) as ``wanted``, or InvalidField that names the place below ``field``."""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise InvalidField([refused(error, field, wanted)]) from None


def _signature(function: Callable[..., Any], name: str) -> tuple[Any, Any, bool]:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) > 1:
        raise DefinitionError(f"{name} takes {len(parameters)} arguments: an actor takes its payload alone")
    if parameters and parameters[0].kind in _BY_NAME_ALONE:
        raise DefinitionError(f"{name} takes its argument by name alone: an actor is called with its payload")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"a type that {name} mentions cannot be found: {error}") from error
    payload_type = hints.get(parameters[0].name, Any) if parameters else Any
    result_type = hints.get("return", Any)
    if inspect.isgeneratorfunction(function):
        result_type = list[(get_args(result_type) or (Any,))[0]]  # type: ignore[misc]
    return payload_type, result_type, bool(parameters)


@overload
def actor(function: Callable[P, R], /) -> Actor[P, R]: ...


@overload
def actor(
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    max_retries: int | None = None,
    timeout: float | None = None,
    backoff: str | dict[str, Any] | None = None,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    isolated: bool = False,
    cache: float | None = None,
    code_version: str | None = None,
    concurrency: int | None = None,
    concurrency_key: str | None = None,
) -> Callable[[Callable[P, R]], Actor[P, R]]: ...


def actor(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, **policy: Any
) -> Actor[P, R] | Callable[[Callable[P, R]], Actor[P, R]]:
    """Make a function an actor: ``@actor``, or ``@actor(queue="mail", max_retries=5, timeout=30)``.

    The task type is the function's name unless ``name`` says otherwise. The function takes the payload, as
    the type of its annotation (any that msgspec converts), and returns the result.

    With ``cache`` its output answers for so many seconds for the same payload of the same user and knowledge
    base, as long as the task that it came from is on record; what an operator has run again runs. Only for
    functions whose output depends on these alone, and without effects that a second task needs. It goes for
    all outputs, also ``Done(…)`` and the keys of blobs, which must be there for as long. What changes the
    output without changing the function itself (what it calls, its payload's type, a model) is not seen:
    give another ``code_version`` then.

    No more than ``concurrency`` of its tasks run at once, in all workers together; with a ``concurrency_key``
    (user_id, project_id, kb_id, or a place in the payload such as payload.customer) so many of each.

    Raises:
      DefinitionError: the name or a part of the policy cannot be used.
    """

    def define(function: Callable[P, R]) -> Actor[P, R]:
        return Actor(function, name or function.__name__, make_policy(name or function.__name__, **policy))

    return define(function) if function is not None else define


class _Limits(msgspec.Struct):
    """What can be checked of a policy by its type."""

    queue: Annotated[str, msgspec.Meta(min_length=1)] = DEFAULT_QUEUE
    max_retries: Annotated[int, msgspec.Meta(ge=0)] | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MOST_TIMEOUT)] | None = None
    isolated: bool = False
    cache: Annotated[float, msgspec.Meta(gt=0, le=MOST_CACHE)] | None = None
    code_version: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_VERSION)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=MOST_AT_ONCE)] | None = None
    concurrency_key: str | None = None


def make_policy(name: str, **given: Any) -> Policy:
    """A policy from the keywords of a decorator; errors name the actor."""
    backoff = given.pop("backoff", None)
    try:
        policy = Policy(backoff=None if backoff is None else backoffs.parse(backoff), **given)
        msgspec.convert(given, _Limits)
        check_queue(policy.queue, field="queue")
        if policy.concurrency_key is not None:
            check_path(policy.concurrency_key, policy.concurrency)
        if not _are_exceptions(policy.retry_on):
            raise TypeError(f"retry_on is a tuple of exception classes, not {policy.retry_on!r}")
        return policy
    except (TypeError, ValueError, InvalidField, msgspec.ValidationError) as error:
        raise DefinitionError(f"the policy of {name} cannot be used: {error}") from error


def _are_exceptions(kinds: Any) -> bool:
    return isinstance(kinds, tuple) and all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
    )
