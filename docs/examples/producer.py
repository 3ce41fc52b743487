"""Sends one ask and one job over NATS and prints the status and the body of both replies.

Needs nats-py (`pip install nats-py`). The API must run with NATS_URL, and a server `everything` must be registered.
The NATS user of this program needs the rights that schemas/README.md lists under "Rights of a producer".
The id `my-first-job` names one job: a second run gets the reply of the first. Choose a new id for each job.
"""

import asyncio, json, nats

async def main():
    nc = await nats.connect("nats://127.0.0.1:4222")
    headers = {"Mcp-Call": json.dumps({"user": "ana", "server": "everything", "tool": "echo"})}

    reply = await nc.request("mcp.v1.ask.tools.call", b'{"message": "hi"}', timeout=60, headers=headers)
    print(reply.headers["Mcp-Status"], reply.data.decode())

    inbox = nc.new_inbox()
    outcome = await nc.subscribe(inbox)
    job = {**headers, "Mcp-Reply": inbox}
    await nc.jetstream().publish("mcp.v1.job.tools.call.my-first-job", b'{"message": "later"}', headers=job)
    reply = await outcome.next_msg(timeout=60)
    print(reply.headers["Mcp-Status"], reply.data.decode())

asyncio.run(main())
