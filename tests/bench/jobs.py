"""Measures jobs: one after the other, from acceptance to answer; 64 producers at once until all is done; and what
100,000 that wait cost in memory and at a start. Embedded, and over NATS and MongoDB with one facade and one worker.
Needs wrk and what tests/services/install puts under target/services.
"""
import argparse, http.client, json, re, shutil, tempfile, time

from bench import BIN, ECHO, Target, free_port, rss_mib
from distributed import Services, cluster, ok

HEADERS = {"Content-Type": "application/json", "Prefer": "respond-async"}
MORE = {"MAX_WAITING_JOBS": "10000000", "RUST_LOG": "warn"}


def body(user="u", tool="echo", args={"message": "__ID__"}):
    return json.dumps({"username": user, "serverName": "echo", "methodName": tool, "args": args})


def embedded(folder):
    port = free_port()
    one = Target("mcp-api", [BIN], port, env={**MORE, "PORT": str(port), "DATA_DIR": f"{folder}/data"})
    one.wait()
    return one, []


def in_log(target):
    """Jobs that are not over."""
    text = target.request("GET", "/metrics")[1]
    text = text.decode() if isinstance(text, bytes) else text
    return sum(int(n) for n in re.findall(r"^mcp_api_jobs_(?:waiting|running) (\d+)", text, re.M))


def round_trips(target, count):
    connection = http.client.HTTPConnection("127.0.0.1", target.port)
    times = []
    for n in range(count):
        began = time.perf_counter()
        connection.request("POST", "/mcp/tool/call", body().replace("__ID__", str(n)), HEADERS)
        job = json.loads(connection.getresponse().read())["jobId"]
        connection.request("GET", f"/jobs/{job}?username=u&wait=30s")
        answer = json.loads(connection.getresponse().read())["job"]
        assert answer["answer"]["status"] == 200 and answer["state"] == "succeeded", answer
        times.append(time.perf_counter() - began)
    times.sort()
    return times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000


def crowd(target, seconds):
    """Jobs a second, from the first acceptance to the last end."""
    target.path, target.body, target.expect = "/mcp/tool/call", body(), ""
    target.headers = {"Prefer": "respond-async"}
    began = time.perf_counter()
    accepted = target.load(64, seconds)[0] * seconds
    while in_log(target):
        time.sleep(0.02)
    target.headers = {}
    return accepted / (time.perf_counter() - began), accepted / seconds


def measure(name, target, hands, args):
    ok(target.request("POST", "/mcp/servers", json.dumps({"name": "echo", "command": ECHO})))
    p50, p99 = round_trips(target, args.count)
    total, accepted = crowd(target, args.seconds)
    print(f"| {name} | {p50:.2f} | {p99:.2f} | {total:,.0f} | {accepted:,.0f} |", flush=True)
    for one in [target, *hands]:
        one.stop()


def waiting(folder, count):
    """Memory that so many waiting jobs of a hundred users take, and a start with them."""
    one, _ = embedded(folder)
    ok(one.request("POST", "/mcp/servers", json.dumps({"name": "echo", "command": ECHO})))
    before = rss_mib(one.process.pid)
    connection = http.client.HTTPConnection("127.0.0.1", one.port)
    # The first take the server's places, so that the others wait; and so do the next after a start.
    for n in range(count + 64):
        call = {"username": f"user-{n % 100}", "serverName": "echo", "methodName": "sleep", "args": {"ms": 3_000_000}, "timeoutMs": 3_600_000}
        connection.request("POST", "/mcp/tool/call", json.dumps(call), HEADERS)
        assert connection.getresponse().read()
        if n == count // 10:
            time.sleep(1)
            # What any number of jobs costs once is there by now.
            few = rss_mib(one.process.pid)
    time.sleep(3)
    after = rss_mib(one.process.pid)
    one.process.kill()
    one.process.wait()
    began = time.perf_counter()
    one, _ = embedded(folder)
    ready = time.perf_counter() - began
    time.sleep(2)
    fresh = rss_mib(one.process.pid)
    grown = lambda from_, to, jobs: f"{(to - from_) * 2**20 / jobs:.0f}"
    each = grown(few, after, count - count // 10), grown(before, after, count), grown(before, fresh, count)
    print(f"\n{count:,} waiting jobs: {each[0]} bytes of resident memory each ({each[1]} with what the first cost once), {each[2]} after a start; ready {ready * 1000:.0f} ms after a kill -9 with them")
    one.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--only", choices=["embedded", "distributed", "waiting"])
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    print("| | round trip p50 ms | p99 ms | jobs a second, 64 producers, until all are done | accepted a second |\n|---|---|---|---|---|", flush=True)
    if args.only in (None, "embedded"):
        measure("embedded", *embedded(folder), args)
    if args.only in (None, "distributed"):
        services = Services()
        try:
            measure("NATS and MongoDB", *cluster(services, "jobs", 1, MORE), args)
        finally:
            services.stop()
    if args.only in (None, "waiting"):
        waiting(f"{folder}/waiting", args.waiting)
    shutil.rmtree(folder, ignore_errors=True)
