"""The life of a running session: commands come and go, the policy is taken over, and one reason ends it.

One thread, one `selectors` loop. What comes from the cell and from the egress process is bounded and parsed before it
gets here; what comes from the control socket is the user's own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandhold.cell.spec import AGENT_USER, CellDied, Command, Exited, Started, TerminalReady
from sandhold.session import control
from sandhold.session.furnish import inside
from sandhold.session.terminals.left_terminals import LEFT_MAX, LeftTerminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.agents.parsing import Agent
    from sandhold.cell.spec import Cell, CommandId
    from sandhold.model.rule import Generation
    from sandhold.model.sandbox import Sandbox
    from sandhold.session.children.egress_process import EgressProcess
    from sandhold.session.workspace.guarding import Guarding

FIRST_ATTACH_S: Final = 30.0  # whoever starts a session attaches to it at once; a starter that was killed never does
HANG_UP_GRACE_S: Final = 3.0  # between SIGHUP and SIGKILL for a command whose user went away
COUNT_DROPPED_FIRST_S: Final = 5.0  # how old the count of dropped packets in the trail can be while packets drop
COUNT_DROPPED_MAX_S: Final = 20.0  # and while none do: a count runs `nft`, which twenty idle sandboxes would feel
CHANNELS_MAX: Final = 256  # a descriptor or four each


@dataclass(slots=True)
class Attachment:
    """One connection on the control socket, and the command started on it. `master` is the other end of the command's
    terminal, ours beside the user's: it is still there when the user leaves."""

    channel: control.Channel
    command: CommandId | None = None
    pid: int | None = None
    master: int | None = None
    wants_terminal: bool = False
    is_started: bool = False
    is_agent: bool = False


@dataclass(slots=True)
class Serving:
    """All that the loop works on. `switched` is called after the policy was taken over, `count_dropped` now and then;
    `ended` is the reason once there is one, `detail` what is known of an end that nobody asked for."""

    sandbox: Sandbox
    agent: Agent
    session: str
    cell: Cell
    egress: EgressProcess
    listener: control.Listener
    generation: Generation
    notes: tuple[str, ...]
    guarding: Guarding
    switched: Callable[[Generation, Generation, int], None]
    count_dropped: Callable[[], bool]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    attachments: list[Attachment] = field(default_factory=list)
    left: list[LeftTerminal] = field(default_factory=list)
    applying: list[Attachment | None] = field(default_factory=list)
    kill_at: dict[CommandId, float] = field(default_factory=dict)
    is_kept: bool = False
    had_command: bool = False
    ended: str | None = None
    detail: str | None = None
    actor: str | None = None


def serve(serving: Serving, wake: int) -> None:
    """Run until there is a reason to end; it stands in `serving.ended` then. `wake` is readable after a signal that
    asks us to stop."""
    selector = serving.selector
    selector.register(serving.listener, selectors.EVENT_READ, _accept)
    selector.register(serving.cell, selectors.EVENT_READ, _cell_news)
    selector.register(serving.egress, selectors.EVENT_READ, _egress_news)
    selector.register(serving.guarding, selectors.EVENT_READ, lambda _: None)  # `act`, in each turn
    selector.register(wake, selectors.EVENT_READ, _asked_to_stop)
    first_attach_by = time.monotonic() + FIRST_ATTACH_S
    count_every_s = COUNT_DROPPED_FIRST_S
    next_count = time.monotonic() + count_every_s
    while serving.ended is None:
        wait_s = min([next_count, *serving.kill_at.values(), *serving.guarding.due()]) - time.monotonic()
        for key, _ in selector.select(max(0.0, wait_s)):
            if isinstance(key.data, Attachment):
                _request(serving, key.data)
            elif isinstance(key.data, LeftTerminal):
                _drain(serving, key.data)
            else:
                key.data(serving)
        now = time.monotonic()
        _kill_overdue(serving, now)
        serving.guarding.act()
        if now >= next_count:
            has_new = serving.count_dropped()
            count_every_s = COUNT_DROPPED_FIRST_S if has_new else min(count_every_s * 2, COUNT_DROPPED_MAX_S)
            next_count = time.monotonic() + count_every_s
        if serving.ended is None and _is_idle(serving, now >= first_attach_by):
            serving.ended = "idle"


def _is_idle(serving: Serving, starter_is_late: bool) -> bool:  # noqa: FBT001 - private
    has_command = any(attachment.command is not None for attachment in serving.attachments)
    if serving.is_kept or has_command or serving.left or serving.kill_at:
        return False
    return serving.had_command or starter_is_late


def _accept(serving: Serving) -> None:
    channel = serving.listener.accept()
    if channel is None:
        return
    if len(serving.attachments) >= CHANNELS_MAX:
        channel.close()
        return
    attachment = Attachment(channel)
    serving.attachments.append(attachment)
    serving.selector.register(channel, selectors.EVENT_READ, attachment)


def _request(serving: Serving, attachment: Attachment) -> None:
    if attachment not in serving.attachments or serving.ended is not None:
        return  # its command ended in the same round; what is asked of a session that ends stays unread, which tells
    try:
        request, descriptors = attachment.channel.receive_request()
    except control.ChannelError:
        _hang_up(serving, attachment)
        return
    try:
        match request:
            case control.Start():
                _start(serving, attachment, request, descriptors)
            case control.Signal(signum):
                _signal(serving, attachment.command, signum)
            case control.Leave(shown):
                _leave(serving, attachment, shown)
            case control.Stop(actor):
                serving.ended, serving.actor = "stopped", actor
            case control.Apply():
                serving.applying.append(attachment)
                serving.egress.apply()
            case control.Keep() | control.Count() | control.Ask():
                attachment.channel.send(_answer(serving, request))
    except control.ChannelError:
        _hang_up(serving, attachment)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(serving: Serving, request: control.Keep | control.Count | control.Ask) -> control.Reply:
    match request:
        case control.Keep():
            serving.is_kept = True
        case control.Count():
            serving.count_dropped()
        case control.Ask():
            return _state(serving)
    return control.Done()


def _start(serving: Serving, attachment: Attachment, request: control.Start, descriptors: list[int]) -> None:
    if attachment.command is not None:
        attachment.channel.send(control.Failed("this connection has started a command already"))
        return
    if not request.wants_terminal and len(descriptors) != control.DESCRIPTORS_MAX:
        attachment.channel.send(control.Failed("a command without a terminal needs three descriptors"))
        return
    is_agent = request.argv is None and request.wants_terminal
    left = next((each for each in serving.left if each.is_agent), None)
    if is_agent and left is not None and not request.arguments:
        _come_back(serving, attachment, left)
        return
    sandbox = serving.sandbox
    user = request.user or AGENT_USER
    given = {**dict(serving.agent.environment), **dict(sandbox.environment), **dict(request.environment)}
    terminal = given.pop("TERM", "") if request.wants_terminal else None
    command = Command(
        argv=(*(request.argv or serving.agent.command), *request.arguments),
        environment=inside.environment(user, given, terminal, sandbox.name),
        folder=request.folder or str(sandbox.workspace),
        user=user,
        rows=request.rows,
        columns=request.columns,
    )
    attachment.wants_terminal, attachment.is_agent = request.wants_terminal, is_agent
    streams = None if request.wants_terminal else (descriptors[0], descriptors[1], descriptors[2])
    try:
        attachment.command = serving.cell.start(command, streams)
    except (OSError, ValueError) as error:  # this command cannot be started; what else runs inside goes on
        attachment.channel.send(control.Failed(f"the command could not be started: {error}"))
        return
    serving.had_command = True


def _leave(serving: Serving, attachment: Attachment, shown: bytes) -> None:
    """Let the command of this connection go on without its user; `shown` is what the user saw last."""
    if attachment.command is None or attachment.pid is None or attachment.master is None:
        attachment.channel.send(control.Failed("only a command at a terminal can be left"))
        return
    if len(serving.left) >= LEFT_MAX:
        attachment.channel.send(control.Failed(f"{LEFT_MAX} terminals are left already"))
        return
    attachment.channel.send(control.Done())
    left = LeftTerminal(attachment.command, attachment.pid, attachment.master, attachment.is_agent)
    left.scrollback.feed(shown)
    os.set_blocking(left.master, False)
    serving.left.append(left)
    serving.selector.register(left.master, selectors.EVENT_READ, left)
    attachment.command = attachment.master = None
    _forget(serving, attachment)


def _come_back(serving: Serving, attachment: Attachment, left: LeftTerminal) -> None:
    """Give a terminal that was left to the user of this connection."""
    if left.is_open:
        serving.selector.unregister(left.master)
    serving.left.remove(left)
    attachment.command, attachment.pid, attachment.master = left.command, left.pid, left.master
    attachment.wants_terminal = attachment.is_started = attachment.is_agent = True
    attachment.channel.send(control.Started(left.pid, left.scrollback.replay()), [left.master])


def _drain(serving: Serving, left: LeftTerminal) -> None:
    left.drain()
    if not left.is_open:
        serving.selector.unregister(left.master)


def _end_left(serving: Serving, command: CommandId) -> None:
    for left in [each for each in serving.left if each.command == command]:
        if left.is_open:
            serving.selector.unregister(left.master)
        os.close(left.master)
        serving.left.remove(left)


def _state(serving: Serving) -> control.State:
    attached = sum(attachment.command is not None for attachment in serving.attachments)
    stays = not _is_idle(serving, starter_is_late=False)
    return control.State(serving.session, serving.generation, attached, serving.is_kept, serving.notes, stays)


def _hang_up(serving: Serving, attachment: Attachment) -> None:
    """The user of this connection went away: so does its command, first asked, then made to."""
    if attachment.command is not None:
        _signal(serving, attachment.command, signal.SIGHUP)
        _signal(serving, attachment.command, signal.SIGCONT)
        serving.kill_at[attachment.command] = time.monotonic() + HANG_UP_GRACE_S
    _forget(serving, attachment)


def _signal(serving: Serving, command: CommandId | None, signum: int) -> None:
    """Pass a signal on. A cell that is gone takes none; that it is gone comes as news of its own."""
    if command is not None:
        with contextlib.suppress(OSError):
            serving.cell.signal(command, signum)


def _forget(serving: Serving, attachment: Attachment) -> None:
    if attachment not in serving.attachments:
        return
    serving.selector.unregister(attachment.channel)
    attachment.channel.close()
    if attachment.master is not None:
        os.close(attachment.master)
        attachment.master = None
    serving.attachments.remove(attachment)
    serving.applying = [None if waiting is attachment else waiting for waiting in serving.applying]


def _kill_overdue(serving: Serving, now: float) -> None:
    for command, deadline in list(serving.kill_at.items()):
        if now >= deadline:
            _signal(serving, command, signal.SIGKILL)
            del serving.kill_at[command]


def _cell_news(serving: Serving) -> None:
    for event in serving.cell.events():
        match event:
            case CellDied(detail):
                serving.ended, serving.detail = "cell-died", detail
            case Started(command, pid):
                attachment = _of_command(serving, command)
                if attachment is not None:
                    attachment.pid = pid
                    _say_started(serving, attachment)
            case TerminalReady(command, master):
                attachment = _of_command(serving, command)
                if attachment is None:
                    os.close(master)
                else:
                    attachment.master = master
                    _say_started(serving, attachment)
            case Exited(command, status, detail):
                serving.kill_at.pop(command, None)
                _end_left(serving, command)
                attachment = _of_command(serving, command)
                if attachment is not None:
                    _tell(serving, attachment, control.Ended(status, detail))
                    _forget(serving, attachment)


def _of_command(serving: Serving, command: CommandId) -> Attachment | None:
    return next((attachment for attachment in serving.attachments if attachment.command == command), None)


def _say_started(serving: Serving, attachment: Attachment) -> None:
    """Say so once the process runs and, if it wants one, its terminal is there to be passed on."""
    if attachment.is_started or attachment.pid is None:
        return
    if attachment.wants_terminal and attachment.master is None:
        return
    attachment.is_started = True
    descriptors = [attachment.master] if attachment.master is not None else []
    _tell(serving, attachment, control.Started(attachment.pid), descriptors)


def _tell(serving: Serving, attachment: Attachment, reply: control.Reply, descriptors: list[int] | None = None) -> None:
    try:
        attachment.channel.send(reply, descriptors or [])
    except control.ChannelError:
        _hang_up(serving, attachment)


def _egress_news(serving: Serving) -> None:
    news = serving.egress.news()
    if news is None:
        serving.ended, serving.detail = "egress-died", "its egress process ended"
        return
    before, serving.generation = serving.generation, news.generation
    serving.switched(before, news.generation, news.cut)
    asker = serving.applying.pop(0) if serving.applying else None  # egress answers in the order it was asked
    if asker is not None:
        _tell(serving, asker, control.Applied(news.generation, news.cut))


def _asked_to_stop(serving: Serving) -> None:
    serving.ended = "stopped"
