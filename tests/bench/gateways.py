"""Measures mcp-api beside the gateways that tests/bench/install-gateways installs, all in front of the same stdio child.

A pass starts one gateway after the other, so the passes are interleaved and only one gateway runs at a time. The tables show
medians, and the most wrong answers of a pass. An answer is good if it holds the text of its call; an answer of mcp-api must
hold the sealed secret. The time to the first answer of mcp-api includes the registration of the server and of the secret.
Needs wrk and the programs that tests/bench/run builds. `MCP_API` names another program.
"""
import argparse, concurrent.futures, http.client, os, shutil, signal, sys, tempfile, threading, time

from gateway_targets import CALL_LIMIT, Client, Gateway, gateways, version

CONNECTIONS = (1, 16, 64)
CALLS = 1500
# Limits in seconds: for all calls with unique texts, and for the recovery after a kill.
TEXTS_LIMIT, RECOVERY_LIMIT = 60, 8
# Outcomes of a kill that sort behind all times.
NEW_SESSION, NEVER = 1e6, 1e9


def load(target, connections, seconds, memory):
    """Returns the figures of a load by wrk. Adds the memory of the gateway under this load to `memory`."""
    ended = threading.Event()

    def watch():
        while not ended.wait(0.4):
            memory.append(target.memory_mib())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        figures = target.load(connections, seconds)
    except StopIteration:
        raise RuntimeError("wrk prints no figures") from None
    finally:
        ended.set()
        watcher.join(CALL_LIMIT)
    if not figures[0]:
        raise RuntimeError("no good answer under load")
    return figures


def wrong_answers(target):
    """Returns the number of wrong answers, and of those with the text of another call."""
    end, target = time.perf_counter() + TEXTS_LIMIT, target.with_texts()

    def caller(first):
        client, wrong = Client(target), []
        for number in range(first, CALLS, 32):
            if time.perf_counter() > end:
                raise RuntimeError(f"{CALLS:,} calls take more than {TEXTS_LIMIT} s")
            text = f"text-{number:04}-of-a-call"
            good, answer = client.call(text)
            if not good:
                wrong.append((answer, text not in answer and "-of-a-call" in answer))
        return wrong

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        wrong = [answer for found in pool.map(caller, range(32)) for answer in found]
    if wrong:
        print(f"  {target.name}: {len(wrong)} wrong answers, for example {wrong[0][0][:200]}")
    return len(wrong), sum(foreign for _, foreign in wrong)


class Kill:
    """Kills the child under 8 callers and watches the later calls."""

    def __init__(self, target):
        self.target, self.lock, self.stopped = target, threading.Lock(), threading.Event()
        self.good_before, self.killed_at, self.lost, self.next_good = 0, None, 0, None

    def call(self):
        client = Client(self.target)
        while not self.stopped.is_set():
            began = time.perf_counter()
            good, _ = client.call()
            with self.lock:
                if self.killed_at is None:
                    self.good_before += good
                elif not good:
                    self.lost += 1
                elif began > self.killed_at and self.next_good is None:
                    self.next_good = time.perf_counter() - self.killed_at
            if not good:
                time.sleep(0.02)

    def kill(self):
        """Kills the child after a second of calls, and waits for the next good answer and one second more."""
        time.sleep(1)
        with self.lock:
            _, children = self.target.processes()
            if not children or not self.good_before:
                raise RuntimeError("no good answer before the kill")
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            self.killed_at = time.perf_counter()
        while self.next_good is None and time.perf_counter() < self.killed_at + RECOVERY_LIMIT:
            time.sleep(0.02)
        if self.next_good is not None:
            time.sleep(1)

    def new_session_works(self):
        try:
            return self.target.mcp and Client(self.target.in_new_session()).call()[0]
        except (OSError, http.client.HTTPException, RuntimeError):
            return False

    def run(self):
        """Returns the seconds until the next good answer, the lost calls, and whether the gateway ended."""
        callers = [threading.Thread(target=self.call, daemon=True) for _ in range(8)]
        for caller in callers:
            caller.start()
        try:
            self.kill()
        finally:
            self.stopped.set()
            for caller in callers:
                caller.join(CALL_LIMIT + 1)
        outcome = self.next_good
        if outcome is None:
            outcome = NEW_SESSION if self.new_session_works() else NEVER
        return outcome, self.lost, self.target.process.poll() is not None


def reason(error):
    """Returns the reason of a failed step as the text of a cell."""
    return " ".join((str(error) or type(error).__name__).split()).replace("|", "/")[:120]


def measure(start, seconds):
    """Measures a gateway once. Returns a result for each step, or the reason (a text) why there is none."""
    results, memory = {}, []

    def step(name, work, *arguments):
        try:
            results[name] = work(*arguments)
        except Exception as error:
            results[name] = reason(error)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            began = time.perf_counter()
            target = start(folder)
            results["first"] = target.first_answer(began)
            time.sleep(1)
            step("idle", target.memory_mib)
            # The first load warms the gateway up, and its figures are dropped.
            step("warm", load, target, 16, 1, [])
            for connections in CONNECTIONS:
                step(connections, load, target, connections, seconds, memory)
            step("busy", max, memory)
            step("wrong", wrong_answers, target)
            step("kill", Kill(target).run)
        except (Exception, SystemExit) as error:
            why = reason(error)
            results = {"first": why, **dict.fromkeys(CONNECTIONS, why), **dict.fromkeys(("idle", "busy", "wrong", "kill"), "–")}
        finally:
            while Gateway.started:
                Gateway.started.pop().stop()
    return results


def cell(passes, step, show):
    """Returns a text for the median and the largest result of a step, or the reason why no pass has a result."""
    found = sorted(results[step] for results in passes if not isinstance(results[step], str))
    return show(found[len(found) // 2], found[-1]) if found else passes[-1][step]


def recovery(outcome, ended):
    if outcome < NEW_SESSION:
        return f"{outcome * 1000:,.0f} ms"
    if outcome == NEW_SESSION:
        return "only in a new session"
    return "never; the gateway ended" if ended else "never"


def print_tables(rows):
    print("\n| gateway | connections | calls a second | p50 ms | p99 ms | CPU µs a call |\n|---|---|---|---|---|---|")
    for label, _, passes in rows:
        for connections in CONNECTIONS:
            figures = cell(passes, connections, lambda row, _: (
                f"{row[0]:,.0f} | {row[1] / 1000:,.2f} | {row[2] / 1000:,.2f} | {row[3]:,.0f}"))
            print(f"| {label} | {connections} | {figures if '|' in figures else figures + ' | | |'} |")
    print(f"\n| gateway and version | first answer | memory MiB: idle / under load | wrong answers of {CALLS:,} "
          "| calls lost after kill -9 | next good answer |\n|---|---|---|---|---|---|")
    for label, number, passes in rows:
        cells = [
            f"{label} {number}".strip(),
            cell(passes, "first", lambda middle, _: f"{middle * 1000:,.0f} ms"),
            " / ".join(cell(passes, step, lambda middle, _: f"{middle:,.0f}") for step in ("idle", "busy")),
            cell(passes, "wrong", lambda _, most: f"{most[0]:,}" + (f" ({most[1]:,} of another call)" if most[1] else "")),
            cell(passes, "kill", lambda middle, _: f"{middle[1]:,}" if middle[0] < NEW_SESSION else "all"),
            cell(passes, "kill", lambda middle, _: recovery(middle[0], middle[2])),
        ]
        print(f"| {' | '.join(cells)} |")


def main():
    known = gateways()
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5, help="length of a load")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one pass with loads of 1 s")
    parser.add_argument("--only", help=f"names with commas between them: {','.join(known)}")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.passes = 1, 1
    chosen = args.only.split(",") if args.only else list(known)
    for name in chosen:
        if name not in known:
            parser.error(f"--only: {name} is unknown; use names of {','.join(known)}")
    if not shutil.which("wrk"):
        parser.error("wrk is missing: apt-get install wrk")
    # A SIGTERM ends the run like Ctrl-C, so the gateways are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    missing = [name for name in chosen if not os.path.exists(known[name][1])]
    if missing:
        print(f"missing: {', '.join(missing)}; see tests/bench/run and tests/bench/install-gateways")
    passes = {name: [] for name in chosen if name not in missing}
    for number in range(args.passes):
        for name in passes:
            print(f"pass {number + 1} of {args.passes}: {name}", file=sys.stderr, flush=True)
            passes[name].append(measure(known[name][3], args.seconds))
    print_tables([(known[name][0], version(known[name][2]) if known[name][2] else "", passes[name]) for name in passes])


if __name__ == "__main__":
    main()
