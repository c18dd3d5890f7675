# A spoke in plain Python: pip install websockets; ALKHUB_URL=http://… ALKHUB_TOKEN=alk_… python spoke.py
import asyncio, json, os, sys
from websockets.asyncio.client import connect

URL = os.environ["ALKHUB_URL"].replace("http", "ws", 1) + "/v1/ws"
META = {"source": "local"}
HEADERS = {"authorization": "Bearer " + os.environ["ALKHUB_TOKEN"]}


def count(items):  # a subscription: an item for each number
    yield from range(1, items + 1)


OPERATIONS = {"demo.sum": ("query", "array", sum), "demo.count": ("subscription", "integer", count)}
SPECS = [{"namespace": id.split(".")[0], "name": id.split(".")[1], "type": kind, "description": id,
          "inputSchema": {"type": takes}, "outputSchema": {"type": "number"}}
         for id, (kind, takes, _) in OPERATIONS.items()]


async def main():
    async for socket in connect(URL, additional_headers=HEADERS):  # reconnects with backoff
        async def send(type, **payload):
            await socket.send(json.dumps({"type": type, "id": "", "payload": payload}))
        try:
            await send("hub.register", requestId="register", name="demo-py", instanceId=f"py-{os.getpid()}", operations=SPECS)
            async for message in socket:
                frame = json.loads(message)
                call = frame["payload"]
                if call.get("requestId") == "register":
                    print(frame["type"], call, file=sys.stderr, flush=True)
                if frame["type"] != "call.requested":
                    continue
                kind, _, run = OPERATIONS[call["operationId"]]
                try:
                    value = run(call["input"])
                    for item in value if kind == "subscription" else [value]:
                        await send("call.responded", requestId=call["requestId"], output={"data": item, "meta": META})
                    if kind == "subscription":
                        await send("call.completed", requestId=call["requestId"])
                except TypeError as error:
                    await send("call.error", requestId=call["requestId"], code="EXECUTION_ERROR", message=str(error))
        except OSError as error:
            print(error, file=sys.stderr)


asyncio.run(main())
