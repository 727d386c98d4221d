"""Any schedule of faults: what is served unasked is no staler than the stated bounds.

Processes are a ``Line`` and a dict each, the network and the clock are virtual. The network keeps
the order within a connection, as TCP, PostgreSQL and Redis do. It delays, repeats and loses; it
cuts connections with and without a word. Processes freeze, fork, crash, and stop between commit
and announcement.

The bounds, for a row that is served at T and was superseded by a commit at C, announced at A (when
the text reached the server):

1. T - A < LEASE_SECONDS, exactly, unless this reader lost that one message out of a connection.
2. A - C < ANNOUNCED for a writer that runs and can reach the server, however often its connection
   dies without a word: 0.4 of a lease until that is noticed, and a few steps to connect again.
3. T - (when it was cached) < CACHE_TTL always: this is the bound for a crash between commit and
   announcement, and for one message that is lost out of a connection.

That the third is mostly much shorter (a gap shows with the sender's next message, a sender that is
gone LEASE_SECONDS after its last one) is in ``test_line``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sessionware.coherence.broadcast import BEAT
from sessionware.coherence.lease import LEASE_SECONDS
from sessionware.coherence.line import Line
from sessionware.coherence.messages import Kind
from tests.coherence.virtual import Seconds, hash_of

CACHE_TTL = 30.0
STEP = 0.25
ANNOUNCED = 0.4 * LEASE_SECONDS + 8 * STEP
ROWS = 2
PROCESSES = 3

rows = st.integers(0, ROWS - 1)
numbers = st.integers(0, PROCESSES - 1)


@dataclass
class Version:
    """One committed state of a row."""

    number: int
    counts_from: float
    by: int
    superseded_at: float = float("inf")
    announced_at: float | None = None


@dataclass(eq=False)
class Link:
    """A connection: texts on their way up to the server and down from it."""

    up: list[tuple[str, list[Version]]] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    up_held: bool = False
    down_held: bool = False
    dead: bool = False


@dataclass(eq=False)
class Cached:
    version: Version
    mark: int
    at: float


class Process:
    def __init__(self, clock: Seconds, number: int) -> None:
        self.number = number
        self.clock = clock
        self.line = Line(clock=clock)
        self.link: Link | None = None
        self.frozen = False
        self.reachable = True
        self.idle = False
        self.next_beat = 0.0
        self.cache: dict[int, Cached] = {}
        self.reading: dict[int, tuple[Version, int]] = {}
        self.unsaid: list[Version] = []
        self.said: list[Version] = []
        self.deaf_to: set[int] = set()

    def say(self, text: str, versions: list[Version]) -> None:
        if self.link is not None and not self.link.dead:
            self.link.up.append((text, versions))

    def disconnected(self) -> None:
        self.line.lost()
        self.link = None

    def run(self) -> None:
        """One turn of the thread: what ``broadcast`` does."""
        now = self.clock.now
        if self.link is None:
            if not self.reachable:
                return
            self.link = Link()
            self.line.connected()
            self.line.proven()
            self.next_beat = now
        if self.line.waiting:
            # Whatever was said before and never came is among it.
            versions, self.unsaid = self.unsaid, []
            self.said = [each for each in self.said + versions if each.announced_at is None]
            for text in self.line.due():
                self.say(text, list(self.said))
        if now >= self.next_beat or self.line.beat_wanted:
            self.next_beat = now + BEAT * LEASE_SECONDS * 1.1
            self.say(self.line.next(Kind.BEAT), [])
        if self.line.overdue():
            self.disconnected()
            return
        self.line.forget_the_silent()
        if not self.link.dead and not self.link.down_held:
            come, self.link.down = self.link.down, []
            for text in come:
                self.line.hear(text)


class Channels(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Seconds()
        self.processes = [Process(self.clock, number) for number in range(PROCESSES)]
        self.history = [[Version(0, self.clock.now, -1)] for _ in range(ROWS)]
        self.served = 0

    @initialize()
    def begin(self) -> None:
        self.advance(1.0)

    # The network.

    def broadcast(self, text: str) -> None:
        for process in self.processes:
            link = process.link
            if link is not None and not link.dead:
                link.down.append(text)

    def carry(self) -> None:
        for process in self.processes:
            link = process.link
            if link is not None and not link.dead and not link.up_held:
                texts, link.up = link.up, []
                for text, versions in texts:
                    self.broadcast(text)
                    self.announce(versions)

    def announce(self, versions: list[Version]) -> None:
        for version in versions:
            if version.announced_at is None:
                version.announced_at = self.clock.now

    @rule(seconds=st.sampled_from([8.0, 12.0]))
    def advance_far(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.5]))
    def advance(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.tick(STEP)
            self.carry()
            for process in self.processes:
                if not process.frozen:
                    process.run()
            self.carry()
            self.check_announced()
            for row in range(ROWS):
                self.read_everywhere(row)

    def check_announced(self) -> None:
        """The second bound."""
        for process in self.processes:
            link = process.link
            if process.frozen or not process.reachable or (link is not None and link.up_held):
                # From here on, it counts from when this ends.
                for version in process.unsaid + process.said:
                    version.counts_from = self.clock.now
                continue
            for version in process.unsaid + process.said:
                if version.announced_at is None:
                    assert self.clock.now - version.counts_from < ANNOUNCED, "never announced"

    @rule(number=numbers, silently=st.booleans())
    def cut(self, number: int, silently: bool) -> None:
        process = self.processes[number]
        if process.link is None:
            return
        if silently:
            process.link.dead = True
            process.link.up.clear()
            process.link.down.clear()
        elif not process.frozen:
            process.disconnected()

    @rule(number=numbers, reachable=st.booleans())
    def reach(self, number: int, reachable: bool) -> None:
        """Whether new connections can be made."""
        self.processes[number].reachable = reachable

    @rule(number=numbers, up=st.booleans(), down=st.booleans())
    def delay(self, number: int, up: bool, down: bool) -> None:
        link = self.processes[number].link
        if link is not None:
            link.up_held, link.down_held = up, down

    @rule(number=numbers, count=st.integers(1, 4))
    def trickle(self, number: int, count: int) -> None:
        """Some of what is on its way comes, the rest still waits."""
        process = self.processes[number]
        link = process.link
        if link is not None and not link.dead and not process.frozen:
            self.carry()
            link.down_held = True
            come, link.down = link.down[:count], link.down[count:]
            for text in come:
                process.line.hear(text)

    @rule(number=numbers)
    def repeat(self, number: int) -> None:
        link = self.processes[number].link
        if link is not None and not link.dead:
            link.down.extend(link.down)

    @rule(number=numbers, at=st.integers(0, 5))
    def lose_one(self, number: int, at: int) -> None:
        """A message out of a connection is lost, and the connection lives."""
        process = self.processes[number]
        link = process.link
        self.carry()
        if link is not None and at < len(link.down):
            del link.down[at]
            self.forgive(process)

    def forgive(self, process: Process) -> None:
        """What was announced to it until now may be what it has lost."""
        process.deaf_to |= {id(version) for row in self.history for version in row}

    # Stretches of a schedule that chance alone seldom puts together.

    @rule(number=numbers, writer=numbers, row=rows, silently=st.booleans(), seconds=st.floats(0, 9))
    def be_away_while_it_is_written(
        self, number: int, writer: int, row: int, silently: bool, seconds: float
    ) -> None:
        process = self.processes[number]
        process.idle, process.reachable = True, False
        self.cut(number, silently)
        self.write(writer, row, then_dies=False)
        self.advance(seconds)
        process.reachable = True
        self.advance(1.0)
        process.idle = False

    @rule(
        number=numbers, writer=numbers, row=rows, seconds=st.floats(0, 4), count=st.integers(0, 3)
    )
    def be_late_and_then_frozen(
        self, number: int, writer: int, row: int, seconds: float, count: int
    ) -> None:
        self.delay(number, up=False, down=True)
        self.advance(seconds)
        self.write(writer, row, then_dies=False)
        self.advance(seconds)
        self.trickle(number, count)
        self.processes[number].frozen = True
        self.advance(LEASE_SECONDS - 1)
        self.thaw_and_read_at_once(row)

    # The processes.

    @rule(number=numbers, frozen=st.booleans())
    def freeze(self, number: int, frozen: bool) -> None:
        """Its clock goes on, and what comes for it waits."""
        self.processes[number].frozen = frozen

    @rule(number=numbers)
    def crash(self, number: int) -> None:
        """What it had not announced never will be; another one starts in its place."""
        self.processes[number] = Process(self.clock, number)

    @rule(number=numbers, onto=numbers)
    def fork(self, number: int, onto: int) -> None:
        """A child starts with nothing of its parent's; it takes the place of another process."""
        if number != onto:
            self.processes[onto] = Process(self.clock, onto)

    @rule(number=numbers, row=rows, then_dies=st.booleans())
    def write(self, number: int, row: int, then_dies: bool) -> None:
        process = self.processes[number]
        if process.frozen:
            return
        mark = process.line.lease.mark(hash_of(row))
        version = Version(len(self.history[row]), self.clock.now, number)
        self.history[row][-1].superseded_at = self.clock.now
        self.history[row].append(version)
        process.reading.pop(row, None)
        if then_dies:
            self.crash(number)
            return
        process.cache[row] = Cached(version, mark, self.clock.now)
        process.line.queue((hash_of(row),))
        process.unsaid.append(version)
        if not process.line.sound() and process.reachable:
            self.broadcast(process.line.at_once((hash_of(row),)))
            self.announce(process.unsaid)

    @rule(number=numbers, row=rows)
    def begin_to_read(self, number: int, row: int) -> None:
        """A slow request: its answer from the database is under way."""
        process = self.processes[number]
        if not process.frozen:
            mark = process.line.lease.mark(hash_of(row))
            process.reading[row] = (self.history[row][-1], mark)

    @rule(number=numbers, row=rows)
    def end_to_read(self, number: int, row: int) -> None:
        process = self.processes[number]
        if not process.frozen and row in process.reading:
            version, mark = process.reading.pop(row)
            process.cache[row] = Cached(version, mark, self.clock.now)

    def read_everywhere(self, row: int) -> None:
        for process in self.processes:
            if not (process.frozen or process.idle):
                self.read(process, row)

    @rule(number=numbers, idle=st.booleans())
    def be_idle(self, number: int, idle: bool) -> None:
        """Whether requests come all the time, or now and then."""
        self.processes[number].idle = idle

    @rule(number=numbers, row=rows)
    def read_now(self, number: int, row: int) -> None:
        if not self.processes[number].frozen:
            self.read(self.processes[number], row)

    @precondition(lambda self: any(process.frozen for process in self.processes))
    @rule(row=rows)
    def thaw_and_read_at_once(self, row: int) -> None:
        """Before the thread has had its turn."""
        for process in self.processes:
            process.frozen = False
            self.read(process, row)

    def read(self, process: Process, row: int) -> None:
        sid_hash, now = hash_of(row), self.clock.now
        cached = process.cache.get(row)
        if cached is None or now - cached.at >= CACHE_TTL:
            cached = None
        if cached is not None and process.line.lease.trusts(sid_hash, cached.mark):
            self.served += 1
            self.check_served(process, row, cached)
            return
        mark = process.line.lease.mark(sid_hash)
        process.cache[row] = Cached(self.history[row][-1], mark, now)

    def check_served(self, process: Process, row: int, cached: Cached) -> None:
        """The first bound; the third is in ``read``."""
        for later in self.history[row][cached.version.number + 1 :]:
            if later.announced_at is None or id(later) in process.deaf_to:
                continue
            assert self.clock.now - later.announced_at < LEASE_SECONDS, "served for too long"


TestChannels = Channels.TestCase
TestChannels.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
