"""Measures mcp-api over NATS and MongoDB: calls beside a pass-through over NATS, how sleeping calls spread over
workers, and changes a second. Needs what tests/services/install puts under target/services, wrk, and the programs that
tests/bench/run builds.
"""
import argparse, concurrent.futures, json, os, shutil, socket, subprocess, tempfile, time

from bench import BENCH, BIN, ECHO, ROOT, SECRET, Target, free_port, table, variant

NATS = f"{ROOT}/target/services/nats/nats-server"
MONGOD = f"{ROOT}/target/services/mongod/mongod"


class Services:
    def __init__(self):
        self.folder = tempfile.mkdtemp()
        self.nats_port, self.mongo_port = free_port(), free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        os.mkdir(f"{self.folder}/db")
        self.nats = subprocess.Popen([NATS, "-a", "127.0.0.1", "-p", str(self.nats_port), "-js", "-sd", f"{self.folder}/js"], **quiet)
        self.all = [self.nats,
                    subprocess.Popen([MONGOD, "--bind_ip", "127.0.0.1", "--port", str(self.mongo_port), "--dbpath", f"{self.folder}/db",
                                      "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"], **quiet)]
        for port in (self.nats_port, self.mongo_port):
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.02)

    def env(self, database):
        return {"NATS_URL": f"nats://127.0.0.1:{self.nats_port}", "MONGO_URL": f"mongodb://127.0.0.1:{self.mongo_port}/{database}",
                "SECRETS_KEY": "ab" * 32, "RUST_LOG": "warn", "LOG_FORMAT": "json", "DATA_DIR": self.folder}

    def stop(self):
        for process in self.all:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)


def cluster(services, database, workers, more={}):
    env = {**services.env(database), **more}
    hands = [Target(f"worker-{n}", [BIN], port := free_port(), env={**env, "ROLES": "worker", "PORT": str(port)}) for n in range(workers)]
    facade = Target("mcp-api", [BIN], port := free_port(), env={**env, "ROLES": "api", "PORT": str(port)})
    for target in [facade, *hands]:
        target.wait()
    # The facade has heard of a worker.
    while facade.request("GET", "/readyz")[0] != 200:
        time.sleep(0.05)
    return facade, hands


def ok(answer):
    assert answer[0] == 200, answer
    return json.loads(answer[1])


class PassThrough:
    """Takes HTTP over its own NATS server to a child: in one process, or as a gateway and a worker."""

    def __init__(self, name, processes):
        nats_port, port = free_port(), free_port()
        url = f"nats://127.0.0.1:{nats_port}"
        # The same settings as those of the other NATS server.
        self.folder = tempfile.mkdtemp()
        self.nats = subprocess.Popen([NATS, "-a", "127.0.0.1", "-p", str(nats_port), "-js", "-sd", self.folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while socket.socket().connect_ex(("127.0.0.1", nats_port)):
            time.sleep(0.02)
        program = f"{BENCH}/pass-through-nats"
        self.worker = Target("worker", [program, "-", ECHO, url], 0) if processes == 2 else None
        self.gateway = Target(name, [program, str(port), "-" if self.worker else ECHO, url], port)
        self.gateway.helpers = [self.nats, *([self.worker.process] if self.worker else [])]
        self.gateway.wait("/")
        while self.gateway.request("POST", self.gateway.path, self.gateway.body)[0] != 200:
            time.sleep(0.02)

    def stop(self):
        for target in filter(None, [self.gateway, self.worker]):
            target.stop()
        self.nats.kill()
        self.nats.wait()
        shutil.rmtree(self.folder)


def calls(services, args):
    facade, hands = cluster(services, "calls", 1)
    ok(facade.request("POST", "/mcp/servers", json.dumps({"name": "echo", "command": ECHO})))
    secret = {"username": "u", "serverName": "echo", "secretName": "message", "secretValue": SECRET}
    ok(facade.request("POST", "/secrets/set", json.dumps(secret)))
    facade.expect = SECRET
    mcp = variant(facade, "MCP of one server (2026-07-28)", "", "/mcp/servers/echo/mcp", "echo")
    del mcp.headers["Authorization"]
    mcp.headers["Mcp-Api-User"] = "u"
    facade.helpers = mcp.helpers = [services.nats, *(hand.process for hand in hands)]
    two = PassThrough("pass-through in two processes", 2)
    one = PassThrough("pass-through in one process", 1)
    try:
        table("over NATS", [two.gateway, one.gateway, facade, mcp], args, ["pass-through in one process"])
    finally:
        for started in [two, one, facade, *hands]:
            started.stop()


def spread(services, args):
    print("\n| workers | calls a second that sleep 50 ms, 256 callers, 32 permits a worker |\n|---|---|")
    for workers in (1, 2, 4):
        facade, hands = cluster(services, f"spread{workers}", workers, {"MAX_CALLS": "32"})
        ok(facade.request("POST", "/mcp/servers", json.dumps({"name": "echo", "command": ECHO, "replicas": "each"})))
        facade.body = json.dumps({"serverName": "echo", "methodName": "sleep", "args": {"ms": 50}})
        facade.expect = ""
        time.sleep(4)
        rps = facade.load(256, args.seconds)[0]
        print(f"| {workers} | {rps:,.0f} |", flush=True)
        for target in [facade, *hands]:
            target.stop()


def changes(services, args):
    """A disabled server given a new variable by 64 clients, through one process, then through four; then by 64 each."""
    os.environ["BENCH_METHOD"] = "PUT"
    print("\n| processes, each facade and worker | clients | changes a second |\n|---|---|---|")
    for processes, clients in ((1, 64), (4, 64), (4, 256)):
        env = services.env(f"changes{processes}-{clients}")
        targets = [Target("both", [BIN], port := free_port(), env={**env, "PORT": str(port)}) for _ in range(processes)]
        for target in targets:
            target.wait()
        for n, target in enumerate(targets):
            ok(target.request("POST", "/mcp/servers", json.dumps({"name": f"s{n}", "command": ECHO, "enabled": False})))
            target.path, target.expect = f"/mcp/servers/s{n}", '"success":true'
            target.body = json.dumps({"env": {"A": "__ID__"}})
        time.sleep(3)
        with concurrent.futures.ThreadPoolExecutor(processes) as pool:
            told = list(pool.map(lambda target: target.load(clients // processes, args.seconds), targets))
        print(f"| {processes} | {clients} | {sum(row[0] for row in told):,.0f} |", flush=True)
        for target in targets:
            target.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--rows", default="", help="a regular expression: measure only the rows that it finds")
    parser.add_argument("--only", choices=["calls", "spread", "changes"])
    args = parser.parse_args()
    services = Services()
    try:
        for measure in (calls, spread, changes):
            if args.only in (None, measure.__name__):
                measure(services, args)
    finally:
        services.stop()
