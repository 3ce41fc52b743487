"""Measures mcp-api over NATS and MongoDB: calls beside a pass-through over NATS, how sleeping calls spread over
workers, and changes a second. Needs what tests/services/install puts under target/services, wrk, and for the
comparison a program that takes PORT CHILD NATS_URL, named by PASS_NATS.
"""
import argparse, concurrent.futures, http.client, json, os, shutil, signal, socket, statistics, subprocess, tempfile, time

import bench
from bench import BIN, ECHO, ROOT, SECRET, Target, free_port

NATS = f"{ROOT}/target/services/nats/nats-server"
MONGOD = f"{ROOT}/target/services/mongod/mongod"


class Services:
    def __init__(self):
        self.folder = tempfile.mkdtemp()
        self.nats_port, self.mongo_port = free_port(), free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        os.mkdir(f"{self.folder}/db")
        self.all = [subprocess.Popen([NATS, "-a", "127.0.0.1", "-p", str(self.nats_port), "-js", "-sd", f"{self.folder}/js"], **quiet),
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
    return facade, hands


def ok(answer):
    assert answer[0] == 200, answer
    return json.loads(answer[1])


def calls(services, args):
    facade, hands = cluster(services, "calls", 1)
    ok(facade.request("POST", "/mcp/servers", json.dumps({"name": "echo", "command": ECHO})))
    secret = {"username": "u", "serverName": "echo", "secretName": "message", "secretValue": SECRET}
    ok(facade.request("POST", "/secrets/set", json.dumps(secret)))
    facade.expect = SECRET
    targets = [facade]
    if program := os.environ.get("PASS_NATS"):
        nats_port, port = free_port(), free_port()
        nats = subprocess.Popen([NATS, "-a", "127.0.0.1", "-p", str(nats_port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        through = Target("pass-through over NATS", [program, str(port), ECHO, f"nats://127.0.0.1:{nats_port}"], port)
        through.wait("/")
        targets.insert(0, through)
    print("\n| over NATS | connections | calls a second | p50 µs | p99 µs |\n|---|---|---|---|---|")
    for connections in (1, 16, 64):
        rows = {target.name: [] for target in targets}
        for _ in range(args.passes):
            for target in targets:
                rows[target.name].append(target.load(connections, args.seconds))
        for name, passes in rows.items():
            rps, p50, p99, _ = sorted(passes)[len(passes) // 2]
            print(f"| {name} | {connections} | {rps:,.0f} | {p50:,.0f} | {p99:,.0f} |", flush=True)
    for target in [*targets, *hands]:
        target.stop()
    if len(targets) > 1:
        nats.kill()


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
    """Secrets set by 64 clients, through one process, then through four."""
    print("\n| facades and workers | secrets set a second, 64 clients |\n|---|---|")
    for processes in (1, 4):
        env = services.env(f"changes{processes}")
        targets = [Target("both", [BIN], port := free_port(), env={**env, "PORT": str(port)}) for _ in range(processes)]
        for target in targets:
            target.wait()
        ok(targets[0].request("POST", "/mcp/servers", json.dumps({"name": "s", "command": ECHO, "enabled": False})))
        until = time.time() + args.seconds * 2

        def client(n):
            target, done = targets[n % processes], 0
            connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
            while time.time() < until:
                body = json.dumps({"username": f"u{n}", "serverName": "s", "secretName": "k", "secretValue": str(done)})
                connection.request("POST", "/secrets/set", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                done += response.status == 200
                assert response.status in (200, 503), text
            return done

        time.sleep(1)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            total = sum(pool.map(client, range(64)))
        print(f"| {processes} | {total / (args.seconds * 2):,.0f} |", flush=True)
        for target in targets:
            target.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    services = Services()
    try:
        for measure in (calls, spread, changes):
            measure(services, args)
    finally:
        services.stop()
