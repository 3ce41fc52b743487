"""Measures 1,000,000 secrets of 100,000 users, and 100,000 tokens: the memory of each, a start with them, and a call beside them.
`tests/bench/secrets.py --users 1000` takes less time. `MCP_API` names another program.
"""
import argparse, http.client, json, multiprocessing, os, shutil, signal, statistics, tempfile, time

import bench
from bench import ECHO, Target, free_port, rss_mib

bench.BIN = os.environ.get("MCP_API", bench.BIN)
ADMIN = "an-admin-token-of-the-benchmark"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"}
SENDERS = 32


def start(folder, port):
    """Returns the program, and the seconds until it is ready."""
    env = {"PORT": str(port), "DATA_DIR": folder, "RUST_LOG": "warn", "ADMIN_TOKEN": ADMIN}
    target = Target("mcp-api", [bench.BIN, "serve"], port, env=env)
    target.headers = {"Authorization": f"Bearer {ADMIN}"}
    began = time.perf_counter()
    while True:
        try:
            if target.request("GET", "/readyz")[0] == 200:
                return target, time.perf_counter() - began
        except OSError:
            assert time.perf_counter() - began < 120, "the program does not start"


def post_all(port, requests):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for path, body in requests:
        connection.request("POST", path, json.dumps(body), HEADERS)
        response = connection.getresponse()
        text = response.read()
        assert response.status in (200, 201), text[:300]


def secrets(users, each):
    for user in users:
        for number in range(each):
            yield "/secrets/set", {"username": f"user-{user}@example.com", "serverName": "echo",
                                   "secretName": f"api_key_{number}", "secretValue": f"value-{user}-{number}"}


def tokens(users, each):
    for user in users:
        yield "/tokens", {"username": f"user-{user}@example.com", "scopes": ["tools"]}


def sender(port, kind, first, args):
    post_all(port, kind(range(first, args.users, SENDERS), args.secrets))


def send(port, kind, args):
    """Sends the requests of all users from several processes. Returns the seconds."""
    began = time.perf_counter()
    senders = [multiprocessing.Process(target=sender, args=(port, kind, n, args)) for n in range(SENDERS)]
    for process in senders:
        process.start()
    for process in senders:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - began


def call_us(port, user):
    """Returns the median time of a call in microseconds."""
    connection, took = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    body = json.dumps({"username": user, "serverName": "echo", "methodName": "echo", "args": {"message": "hi"}})
    for _ in range(3000):
        began = time.perf_counter()
        connection.request("POST", "/mcp/tool/call", body, HEADERS)
        text = connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1e6)
        assert b'"success":true' in text, text[:300]
    return statistics.median(took)


def restart(target, folder, port):
    os.kill(target.process.pid, signal.SIGKILL)
    target.process.wait()
    target, took = start(folder, port)
    time.sleep(3)
    return target, took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--secrets", type=int, default=10, help="the secrets of each user")
    args = parser.parse_args()
    users, count, folder, port = args.users, args.users * args.secrets, tempfile.mkdtemp(), free_port()
    target, _ = start(folder, port)
    post_all(port, [("/mcp/servers", {"name": "echo", "command": ECHO}), *secrets(["0"], args.secrets)])
    one = "user-0@example.com"
    before, few = call_us(port, one), rss_mib(target.process.pid)
    rows, per = [], lambda kept, count: f"{kept * 2**20 / count:.0f} bytes"
    rate = count / send(port, secrets, args)
    time.sleep(3)
    rows.append((f"secrets set from {SENDERS} clients", f"{rate:,.0f} a second"))
    rows.append(("memory of a secret, while they are set", per(rss_mib(target.process.pid) - few, count)))
    target, took = restart(target, folder, port)
    with_secrets = rss_mib(target.process.pid)
    rows.append(("memory of a secret, after a start", per(with_secrets - few, count)))
    rows.append(("kill -9 and start with them", f"{took:.2f} s"))
    rows.append(("a call (p50) without and with them", f"{before:.0f} µs, {call_us(port, one):.0f} µs"))
    with_secrets = rss_mib(target.process.pid)
    send(port, tokens, args)
    time.sleep(3)
    rows.append(("memory of a token, while they are made", per(rss_mib(target.process.pid) - with_secrets, users)))
    target, took = restart(target, folder, port)
    rows.append(("memory of a token, after a start", per(rss_mib(target.process.pid) - with_secrets, users)))
    rows.append(("kill -9 and start with secrets and tokens", f"{took:.2f} s"))
    print(f"\n| {count:,} secrets of {users:,} users, {users:,} tokens | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    target.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
