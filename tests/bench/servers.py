"""Measures 1,000 stdio servers of the smallest child: the memory of our own processes, lists, the idle processor time, and the
time from kill -9 to the last connection. `tests/bench/servers.py --count 100` takes less time. `MCP_API` names another program.
"""
import argparse, concurrent.futures, http.client, json, os, shutil, signal, statistics, tempfile, time

import bench
from bench import ECHO, TICK, Target, free_port, tree
from users import pss_mib

bench.BIN = os.environ.get("MCP_API", bench.BIN)
OURS = ("mcp-api", "guard-starter", "mcp-api-guard")


def comm(pid):
    return open(f"/proc/{pid}/comm").read().strip()


def own_processes(target):
    """The processes of the program, without the servers."""
    return [pid for pid in tree(target.process.pid) if comm(pid) in OURS]


def own_cpu(pids):
    ticks = [sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13])) for pid in pids]
    return sum(ticks) / TICK


def start(folder, port):
    env = {"PORT": str(port), "DATA_DIR": folder, "RUST_LOG": "warn"}
    target = Target("mcp-api", [bench.BIN, "serve"], port, env=env)
    target.wait()
    return target


def register(port, numbers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for number in numbers:
        body = json.dumps({"name": f"server-{number}", "command": ECHO})
        connection.request("POST", "/mcp/servers", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200 and b'"connected"' in text, text[:300]


def connected(target):
    _, text, _ = target.request("GET", "/mcp/servers")
    return sum(server["status"] == "connected" for server in json.loads(text)["servers"])


def wait_for_all(target, count):
    began = time.perf_counter()
    while connected(target) < count:
        assert time.perf_counter() - began < 300, "not all servers connect"
        time.sleep(0.1)


def read_ms(target, path):
    """Returns the median time of a list over one connection, and its size."""
    connection, took = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60), []
    for _ in range(20):
        began = time.perf_counter()
        connection.request("GET", path)
        text = connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1000)
    return f"{statistics.median(took):.1f} ms, {len(text) / 1000:.0f} kB"


def measure(target, count):
    processes = own_processes(target)
    memory = sum(map(pss_mib, processes)) * 1024 / count
    program = pss_mib(target.process.pid) * 1024 / count
    time.sleep(5)
    before = own_cpu(processes)
    time.sleep(20)
    idle = (own_cpu(processes) - before) / 20 * 100
    return [
        ("memory of our own processes for each server (the program alone)", f"{memory:.0f} KiB ({program:.0f} KiB)"),
        ("`GET /mcp/servers`", read_ms(target, "/mcp/servers")),
        ("`GET /mcp/tools`", read_ms(target, "/mcp/tools")),
        ("processor time while idle", f"{idle:.1f} % of a core"),
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    folder, port = tempfile.mkdtemp(), free_port()
    target = start(folder, port)
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda first: register(port, range(first, args.count, 8)), range(8)))
    rows = [(f"registration of {args.count:,} servers, 8 at the same time", f"{time.perf_counter() - began:.1f} s")]
    rows += measure(target, args.count)
    os.kill(target.process.pid, signal.SIGKILL)
    target.process.wait()
    began = time.perf_counter()
    target = start(folder, port)
    wait_for_all(target, args.count)
    rows.append(("kill -9 and start, until all are connected", f"{time.perf_counter() - began:.1f} s"))
    print(f"\n| {args.count:,} stdio servers | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    target.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
