"""Measures servers with credentials of users: processes of users (a key in the environment), and 1,000 users in turn of one
server behind a URL (a key in a header). `tests/bench/users.py --quick` takes some seconds. `MCP_API` names another program.
"""
import argparse, http.client, json, os, shutil, statistics, tempfile, time

import bench
from bench import BENCH, ECHO, Target, free_port, rss_mib, tree

bench.BIN = os.environ.get("MCP_API", bench.BIN)
HEADERS = {"Content-Type": "application/json"}


def pss_mib(pid):
    """The memory of a process, in which each shared page counts in parts. All guards share the pages of the program."""
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024


class Client:
    """One connection, which sends one request after the other."""

    def __init__(self, target):
        self.connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)

    def post(self, path, body):
        """Returns the milliseconds until the whole reply was read."""
        began = time.perf_counter()
        self.connection.request("POST", path, json.dumps(body), HEADERS)
        response = self.connection.getresponse()
        text = response.read()
        took = (time.perf_counter() - began) * 1000
        assert response.status == 200 and b'"success":true' in text, text[:300]
        return took

    def call(self, user):
        return self.post("/mcp/tool/call", {"username": user, "serverName": "echo", "methodName": "echo",
                                            "args": {"message": user}})


def program(folder, users, server):
    """The program with one server, and the keys of all users."""
    port = free_port()
    limits = {"MAX_USER_PROCESSES": str(users + 1), "MAX_USER_CONNECTIONS": str(users + 1), "USER_PROCESS_IDLE": "1h"}
    target = Target("mcp-api", [bench.BIN, "serve"], port,
                    env={"PORT": str(port), "DATA_DIR": folder, "RUST_LOG": "warn", **limits})
    target.wait()
    client = Client(target)
    client.post("/mcp/servers", {"name": "echo", **server})
    for number in range(users):
        client.post("/secrets/set", {"username": f"user-{number}", "serverName": "echo", "secretName": "KEY",
                                     "secretValue": f"the-key-of-user-{number}"})
    return target, client


def latencies(name, times):
    times = sorted(times)
    return name, f"{statistics.median(times):.2f} ms, {times[len(times) * 9 // 10]:.2f} ms"


def rounds(client, users, count):
    """Rounds in which each user calls once: the first one, and all others."""
    first = [client.call(f"user-{number}") for number in range(users)]
    later = [client.call(f"user-{number}") for _ in range(count) for number in range(users)]
    return first, later


def environment(args):
    users, folder = (8 if args.quick else 50), tempfile.mkdtemp()
    target, client = program(folder, users, {"command": ECHO, "credentials": [
        {"name": "KEY", "in": "env", "required": True}]})
    idle = sum(map(pss_mib, tree(target.process.pid)))
    first, later = rounds(client, users, 20)
    processes = tree(target.process.pid)[1:]
    names = {pid: open(f"/proc/{pid}/comm").read().strip() for pid in processes}
    guards = [pid for pid in processes if names[pid] == "mcp-api-guard"]
    children = [pid for pid in processes if names[pid] not in ("mcp-api-guard", "guard-starter")]
    assert len(guards) == len(children) == users, names
    rows = [
        latencies("first call of a user, which starts the process: p50, p90", first),
        latencies("later calls: p50, p90", later),
        ("memory of a guard", f"{statistics.mean(map(pss_mib, guards)):.2f} MiB"),
        ("memory of the process behind it (the smallest server)", f"{statistics.mean(map(pss_mib, children)):.2f} MiB"),
        ("growth of all processes, for each user", f"{(sum(map(pss_mib, tree(target.process.pid))) - idle) / users:.2f} MiB"),
    ]
    target.stop()
    shutil.rmtree(folder)
    return f"{users} users, a key in the environment", rows


def header(args):
    users, folder, port = (50 if args.quick else 1000), tempfile.mkdtemp(), free_port()
    server = Target("http-echo", [f"{BENCH}/http-echo", str(port)], port)
    server.wait("/")
    target, client = program(folder, users, {
        "transportType": "streamable_http", "url": f"http://127.0.0.1:{port}/mcp",
        "credentials": [{"name": "KEY", "in": "header", "as": "Authorization", "format": "Bearer {value}", "required": True}]})
    before = rss_mib(target.process.pid)
    first, later = rounds(client, users, 5)
    kept = rss_mib(target.process.pid) - before
    alone = [client.call("user-0") for _ in range(len(later))]
    rows = [
        latencies("first call of a user, which opens the connection: p50, p90", first),
        latencies("later calls of all users in turn: p50, p90", later),
        latencies("as many calls of one user: p50, p90", alone),
        ("memory of the program for each user", f"{kept * 1024 / users:.1f} kB"),
    ]
    target.stop()
    server.stop()
    shutil.rmtree(folder)
    return f"{users:,} users in turn, a key in a header", rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer users")
    args = parser.parse_args()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    for measure in (environment, header):
        title, rows = measure(args)
        print(f"\n| {title} | |\n|---|---|")
        for name, figure in rows:
            print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
