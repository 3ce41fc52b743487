"""Measures mcp-api beside a bare pass-through and, where installed, mcpway. Standard library only.

Every call to mcp-api carries a sealed secret named `message`; an answer counts only if it holds the
secret's value. Passes are interleaved and the median is shown: machines are noisy, ratios less so.
"""
import argparse, copy, http.client, http.server, json, os, re, resource, shutil, signal, socket, statistics, subprocess, tempfile, threading, time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BIN = os.environ.get("MCP_BENCH_BIN", f"{ROOT}/target/dist/mcp-api")
BENCH = f"{ROOT}/target/bench/release"
ECHO = f"{BENCH}/mcp-echo"
LUA = f"{ROOT}/tests/bench/load.lua"
TICK = os.sysconf("SC_CLK_TCK")
SECRET = "the-sealed-value"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tree(root):
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(pid))
        except OSError:
            pass
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


def cpu_seconds(pid):
    total = 0
    for p in tree(pid):
        try:
            total += sum(map(int, open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[11:15]))
        except OSError:
            pass
    return total / TICK


def rss_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


class Target:
    """A running program with one echo server behind it."""

    def __init__(self, name, command, port, path="/mcp/tool/call", env={}):
        self.name, self.port, self.path = name, port, path
        self.process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        # Each call has a number of its own, like the ids of MCP, so that the load generator does the same for each row.
        self.body = json.dumps({"username": "u", "serverName": "echo", "methodName": "echo",
                                "args": {"message": "from the caller __ID__"}})
        self.expect, self.headers, self.session = "from the caller", {}, None
        # Further processes that work for the calls of this program.
        self.helpers = []

    def request(self, method, path, body=None, headers={}, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **self.headers, **headers})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def wait(self, path="/healthz"):
        started = time.perf_counter()
        while True:
            try:
                if self.request("GET", path)[0]:
                    return time.perf_counter() - started
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - started > 30:
                    raise SystemExit(f"{self.name} does not start")

    def load(self, connections, seconds):
        with tempfile.TemporaryDirectory() as folder:
            open(f"{folder}/body", "w").write(self.body)
            open(f"{folder}/headers", "w").write("".join(f"{k}: {v}\n" for k, v in self.headers.items()))
            env = {**os.environ, "BENCH_BODY_FILE": f"{folder}/body", "BENCH_EXPECT": self.expect, "BENCH_NAME": self.name,
                   "BENCH_CONC": str(connections), "BENCH_ID_BASE": str(int(time.time()) % 1000 * 50000),
                   "BENCH_HEADERS_FILE": f"{folder}/headers" if self.headers else ""}
            if self.session:
                open(f"{folder}/sessions", "w").write(self.session + "\n")
                env["BENCH_SESSIONS_FILE"] = f"{folder}/sessions"
            before = self.cpu_seconds()
            ran = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", LUA,
                                  f"http://127.0.0.1:{self.port}{self.path}"], env=env, capture_output=True, text=True)
            used = self.cpu_seconds() - before
        row = next(line for line in ran.stdout.splitlines() if line.startswith("ROW,")).split(",")
        rps, p50, p99, errors = float(row[3]), float(row[4]), float(row[5]), int(row[6])
        if errors:
            print(f"  {self.name} at {connections}: {errors} wrong answers: {ran.stderr.strip()[:300]}")
        return rps, p50 * 1000, p99 * 1000, used / (rps * seconds) * 1e6 if rps else 0

    def cpu_seconds(self):
        return sum(cpu_seconds(process.pid) for process in [self.process, *self.helpers])

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def ours(folder, echo, env={}):
    """The program with the server `echo`, and a secret for it."""
    port = free_port()
    target = Target("mcp-api", [BIN, "serve"], port, env={"PORT": str(port), "DATA_DIR": folder, "RUST_LOG": "warn",
                                                           "LOG_FORMAT": "json", **env})
    target.wait()
    if "ADMIN_TOKEN" in env:
        target.headers = {"Authorization": f"Bearer {env['ADMIN_TOKEN']}"}
    status, body, _ = target.request("POST", "/mcp/servers", json.dumps({"name": "echo", **echo}))
    assert status == 200 and b'"connected"' in body, body
    secret = {"username": "u", "serverName": "echo", "secretName": "message", "secretValue": SECRET}
    assert target.request("POST", "/secrets/set", json.dumps(secret))[0] == 200
    target.expect = SECRET
    return target


def pass_through(program, to):
    port = free_port()
    target = Target("pass-through", [f"{BENCH}/{program}", str(port), to], port)
    target.wait("/")
    return target


def mcpway(path):
    port = free_port()
    target = Target("mcpway", [path, "--stdio", ECHO, "--output-transport", "streamable-http", "--stateful", "--port", str(port),
                               "--log-level", "none"], port, "/mcp")
    target.wait("/")
    target.headers = {"Accept": "application/json, text/event-stream"}
    hello = {"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}}
    _, _, headers = target.request("POST", "/mcp", json.dumps(hello))
    target.session = headers["mcp-session-id"]
    target.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
                   {"Mcp-Session-Id": target.session})
    target.headers["MCP-Protocol-Version"] = "2025-06-18"
    target.body = ('{"jsonrpc":"2.0","id":"__ID__","method":"tools/call",'
                   '"params":{"name":"echo","arguments":{"message":"from the caller"}}}')
    return target


def table(title, targets, args, beside=()):
    """Loads the targets in turn, and compares all with the first one and with those of `beside`.

    The machine may become slower or faster during a run. So each pass begins with another target, and a ratio is the
    median of the ratios within one pass.
    """
    targets = [target for target in targets if re.search(args.rows, target.name)]
    if not targets:
        return
    named = [name for name in beside if any(target.name == name for target in targets)]
    compared = {"the first row" if args.rows else "the pass-through": targets[0].name, **{name: name for name in named}}
    columns = ["connections", "calls a second", "p50 µs", "p99 µs", "CPU µs a call", *(f"of {name}" for name in compared)]
    print(f"\n| {title} | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for connections in (1, 16, 64):
        passes = []
        for number in range(args.passes):
            first = number % len(targets)
            turns = targets[first:] + targets[:first]
            passes.append({target.name: target.load(connections, args.seconds) for target in turns})
        for target in targets:
            rps, p50, p99, cpu = (statistics.median(column) for column in zip(*(rows[target.name] for rows in passes)))
            ratios = (statistics.median(rows[target.name][0] / rows[other][0] for rows in passes) for other in compared.values())
            print(f"| {target.name} | {connections} | {rps:,.0f} | {p50:,.0f} | {p99:,.0f} | {cpu:.1f} | "
                  f"{' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


def load(args):
    folder = tempfile.mkdtemp()
    targets = [pass_through("pass-through", ECHO), ours(folder, {"command": ECHO})]
    other = shutil.which("mcpway") or os.environ.get("MCPWAY")
    if other:
        targets.append(mcpway(other))
    try:
        table("", targets, args)
    finally:
        for target in targets:
            target.stop()
        shutil.rmtree(folder)


def remote(args):
    """The same with a server behind a URL. Its own CPU time belongs to nobody's row."""
    folder, port = tempfile.mkdtemp(), free_port()
    server = Target("http-echo", [f"{BENCH}/http-echo", str(port)], port)
    server.wait("/")
    url = f"http://127.0.0.1:{port}/mcp"
    targets = [pass_through("pass-through-http", url), ours(folder, {"transportType": "streamable_http", "url": url})]
    try:
        table("behind a URL", targets, args)
    finally:
        for target in [*targets, server]:
            target.stop()
        shutil.rmtree(folder)


MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
KEY_SCRIPT = """
const crypto = require("crypto"), [issuer, audience] = process.argv.slice(1);
const { privateKey, publicKey } = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 });
const text = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const claims = { iss: issuer, aud: audience, sub: "u", iat: 0, exp: Math.floor(Date.now() / 1000) + 36000 };
const signed = text({ alg: "RS256", typ: "JWT", kid: "k" }) + "." + text(claims);
const jwt = signed + "." + crypto.sign("RSA-SHA256", Buffer.from(signed), privateKey).toString("base64url");
console.log(JSON.stringify({ jwt, key: { ...publicKey.export({ format: "jwk" }), kid: "k", use: "sig", alg: "RS256" } }));
"""


def issuer():
    """An OpenID Connect issuer with one key, and a JWT of the user `u`."""
    port, audience = free_port(), "mcp-api-bench"
    url = f"http://127.0.0.1:{port}"
    made = json.loads(subprocess.check_output(["node", "-e", KEY_SCRIPT, url, audience]))
    documents = {"/.well-known/openid-configuration": {"issuer": url, "jwks_uri": f"{url}/keys"}, "/keys": {"keys": [made["key"]]}}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(documents.get(self.path, {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()
    return {"OIDC_ISSUER": url, "OIDC_AUDIENCE": audience}, made["jwt"]


def variant(target, name, token, path=None, tool=None, session=None):
    """The same process with another caller or another route."""
    other = copy.copy(target)
    other.name, other.headers = name, {"Authorization": f"Bearer {token}"}
    if path is None:
        # A user's own token needs no user in the body.
        body = json.loads(target.body)
        if name != target.name:
            del body["username"]
        other.body = json.dumps(body)
        return other
    other.path = path
    params = {"name": tool, "arguments": {"message": "from the caller"}}
    other.headers["Accept"] = "application/json, text/event-stream"
    if session is None:
        params["_meta"] = META
        other.headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    else:
        other.session = session
    other.body = json.dumps({"jsonrpc": "2.0", "id": "__ID__", "method": "tools/call", "params": params})
    return other


def initialize(target, token, path):
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}}
    _, _, headers = target.request("POST", path, json.dumps(hello), {"Authorization": f"Bearer {token}"})
    return headers["mcp-session-id"]


def endpoints(args):
    """Callers (ADMIN_TOKEN, a token, a JWT) and the MCP endpoints, all on one process."""
    folder, admin = tempfile.mkdtemp(), "an-admin-token-of-the-benchmark"
    oidc, jwt = issuer()
    through = pass_through("pass-through", ECHO)
    target = ours(folder, {"command": ECHO}, {"ADMIN_TOKEN": admin, **oidc})
    target.name = "REST with ADMIN_TOKEN"
    status, body, _ = target.request("POST", "/tokens", json.dumps({"username": "u"}))
    assert status == 200, body
    token, one = json.loads(body)["token"], "/mcp/servers/echo/mcp"
    targets = [
        through, target, variant(target, "REST with a token of a user", token), variant(target, "REST with a JWT", jwt),
        variant(target, "MCP of one server (2026-07-28)", token, one, "echo"),
        variant(target, "MCP of one server (session)", token, one, "echo", initialize(target, token, one)),
        variant(target, "MCP of all servers (2026-07-28)", token, "/mcp", "echo__echo"),
    ]
    try:
        table("caller and route", targets, args, ["REST with a token of a user"])
    finally:
        through.stop()
        target.stop()
        shutil.rmtree(folder)
    streams(args)


def features(args):
    """A call with three notices beside one without, and `resources/read` of 1 MiB beside a tool's result of that size."""
    folder, admin, one = tempfile.mkdtemp(), "an-admin-token-of-the-benchmark", "/mcp/servers/echo/mcp"
    through = pass_through("pass-through", ECHO)
    target = ours(folder, {"command": ECHO}, {"ADMIN_TOKEN": admin})
    call = variant(target, "a call", admin, one, "echo")
    with_notices = variant(target, "a call with 3 notices", admin, one, "progress")
    for each in (call, with_notices):
        each.headers["Mcp-Api-User"] = "u"
    message = json.loads(with_notices.body)
    message["params"]["_meta"] = {**META, "progressToken": "__ID__"}
    with_notices.body = json.dumps(message)
    big = copy.copy(through)
    big.name = "a result of 1 MiB (pass-through)"
    big.body = json.dumps({"username": "u", "serverName": "echo", "methodName": "big", "args": {"size": 1 << 20}})
    read = copy.copy(call)
    read.name = "resources/read of 1 MiB"
    read.headers = {**call.headers, "Mcp-Method": "resources/read", "Mcp-Name": f"bytes:{1 << 20}"}
    read.body = json.dumps({"jsonrpc": "2.0", "id": "__ID__", "method": "resources/read",
                            "params": {"uri": f"bytes:{1 << 20}", "_meta": META}})
    read.expect = big.expect = "xxxx"
    try:
        table("notices", [call, with_notices], args)
        table("1 MiB", [big, read], args)
    finally:
        through.stop()
        target.stop()
        shutil.rmtree(folder)


def streams(args):
    """The tool list of 1,000 tools, sessions, and the memory of idle streams."""
    # The program uses half of its open files for connections.
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    folder, count = tempfile.mkdtemp(), min(500 if args.quick else 10_000, open_files // 2 - 500)
    target = ours(folder, {"command": ECHO, "env": {"ECHO_TOOLS": "1000"}},
                  {"MAX_CONNECTIONS": "30000", "MCP_MAX_STREAMS": "20000", "MCP_MAX_STREAMS_PER_USER": "20000"})
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}})
    took = []
    for _ in range(50):
        began = time.perf_counter()
        status, found, _ = target.request("POST", "/mcp/servers/echo/mcp", body, headers)
        took.append((time.perf_counter() - began) * 1000)
        assert status == 200 and b"nextCursor" in found, found[:200]
    rows = [("`tools/list` with 1,000 tools in a page", f"{statistics.median(took):.2f} ms")]
    listen = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
                         "params": {"notifications": {"toolsListChanged": True}, "_meta": META}})
    request = (f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n"
               f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: subscriptions/listen\r\nContent-Length: {len(listen)}\r\n\r\n{listen}")
    before, sockets = rss_mib(target.process.pid), []
    for _ in range(count):
        sockets.append(socket.create_connection(("127.0.0.1", target.port)))
        sockets[-1].sendall(request.encode())
    for stream in sockets:
        assert b"200 OK" in stream.recv(4096)
    rows.append((f"memory of an idle stream ({count:,} open)", f"{(rss_mib(target.process.pid) - before) * 1024 / count:.1f} kB"))
    used = cpu_seconds(target.process.pid)
    time.sleep(5)
    rows.append((f"CPU of {count:,} idle streams", f"{(cpu_seconds(target.process.pid) - used) / 5 * 100:.1f} % of a core"))
    for stream in sockets:
        stream.close()
    target.stop()
    shutil.rmtree(folder)
    print("\n| | |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")


def start(folder):
    """Milliseconds from the start of the process to the first 200 of /healthz, and the process."""
    port = free_port()
    began = time.perf_counter()
    target = Target("mcp-api", [BIN, "serve"], port, env={"PORT": str(port), "DATA_DIR": folder, "RUST_LOG": "warn", "LOG_FORMAT": "json"})
    target.wait()
    return (time.perf_counter() - began) * 1000, target


def figures(args):
    rows = []
    folder = tempfile.mkdtemp()
    boots = []
    for _ in range(5):
        took, target = start(folder)
        boots.append(took)
        if len(boots) < 5:
            target.stop()
    rows.append(("start to the first 200 of /healthz", f"{statistics.median(boots):.0f} ms"))
    target.request("GET", "/readyz")
    time.sleep(1)
    rows.append(("idle memory (RSS)", f"{rss_mib(target.process.pid):.1f} MiB"))
    target.stop()
    shutil.rmtree(folder)

    folder = tempfile.mkdtemp()
    target = ours(folder, {"command": ECHO, "env": {"ECHO_TOOLS": "1000"}})
    call = lambda tool, arguments: target.request("POST", "/mcp/tool/call", json.dumps(
        {"username": "other", "serverName": "echo", "methodName": tool, "args": arguments}))
    threads, wrong = [], []
    def sleep():
        status, body, _ = call("sleep", {"ms": 200})
        if status != 200 or b"slept 200" not in body:
            wrong.append(body)
    began = time.perf_counter()
    for _ in range(100):
        threads.append(threading.Thread(target=sleep))
        threads[-1].start()
    for thread in threads:
        thread.join()
    rows.append(("100 calls at once of a tool that sleeps 200 ms", f"{(time.perf_counter() - began) * 1000:.0f} ms"))
    assert not wrong, wrong
    def median_ms(work, n=15):
        took = []
        for _ in range(n):
            began = time.perf_counter()
            work()
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)
    large = "y" * (1 << 20)
    def echo_large():
        status, body, _ = call("echo", {"message": large})
        assert status == 200 and large.encode() in body
    def big():
        status, body, _ = call("big", {"size": 1 << 20})
        assert status == 200 and len(body) > 1 << 20
    rows.append(("1 MiB in and out (`echo`)", f"{median_ms(echo_large):.1f} ms"))
    rows.append(("1 MiB out (`big`)", f"{median_ms(big):.1f} ms"))
    def tools():
        status, body, _ = target.request("GET", "/mcp/tools")
        assert status == 200 and body.count(b"tool_") == 1000
    rows.append(("`GET /mcp/tools` with 1,004 tools", f"{median_ms(tools, 50):.2f} ms"))

    commits = 2000 if args.quick else 100_000
    left = iter(range(commits))
    lock = threading.Lock()
    def write():
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
        while True:
            with lock:
                n = next(left, None)
            if n is None:
                return
            secret = {"username": f"user-{n % 1000}", "serverName": "echo", "secretName": f"s{n % 7}", "secretValue": "v"}
            connection.request("POST", "/secrets/set", json.dumps(secret), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
    began = time.perf_counter()
    writers = [threading.Thread(target=write) for _ in range(64)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows.append((f"secrets set from 64 clients (fsync before each answer; the client is Python)",
                 f"{commits / (time.perf_counter() - began):,.0f} a second"))
    target.stop()
    took, target = start(folder)
    target.request("GET", "/readyz")
    rows.append((f"start on a log of {commits:,} commits", f"{took:.0f} ms"))
    target.stop()
    shutil.rmtree(folder)
    print("\n| | |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="short passes, a small log")
    parser.add_argument("--passes", type=int, help="passes of one second for each row, instead of 11")
    parser.add_argument("--rows", default="", help="a regular expression: measure only the rows that it finds")
    parser.add_argument("--only", choices=["load", "remote", "figures", "endpoints", "features"])
    args = parser.parse_args()
    args.seconds, passes = (2, 1) if args.quick else (1, 11)
    args.passes = args.passes or passes
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    for measure in (figures, load, remote, endpoints, features):
        if args.only in (None, measure.__name__):
            measure(args)


if __name__ == "__main__":
    main()
