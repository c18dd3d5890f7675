# A spoke without an SDK: pip install websockets; ALKHUB_URL=http://… ALKHUB_TOKEN=alk_… python3 spoke.py
import asyncio, json, os, random, sys, uuid, websockets
URL, KEY = os.environ["ALKHUB_URL"].replace("http", "ws", 1) + "/v1/ws", os.environ["ALKHUB_TOKEN"]
OPERATIONS = {"sum": ("query", lambda numbers: [sum(numbers)]), "count": ("subscription", lambda last: range(1, last + 1))}
SPECS = [dict(namespace="demo", name=name, type=kind, inputSchema=True, outputSchema=True) for name, (kind, _) in OPERATIONS.items()]
async def answer(running, send, requestId, operationId, input=None, **_):
    kind, run = OPERATIONS[operationId.removeprefix("demo.")]
    try:
        for data in run(input):
            await asyncio.gather(send("call.responded", requestId, output={"data": data, "meta": {"source": "local"}}), asyncio.sleep(0.1))
        if kind == "subscription": await send("call.completed", requestId)
    except Exception as error: await send("call.error", requestId, code="EXECUTION_ERROR", message=str(error))
    finally: running.pop(requestId) and print(operationId, "ended", file=sys.stderr, flush=True)
async def main(instance, running, delay=0.25):  # running: request id -> task; after a loss, a random part of the delay is waited
    while True:
        try:
            async with websockets.connect(URL, subprotocols=["alk.v1.json", "alk.bearer." + KEY], max_size=2**21) as socket:
                send = lambda type, id, **more: socket.send(json.dumps({"type": type, "id": "", "payload": {"requestId": id, **more}}))
                await send("hub.register", "register", name="demo-py", instanceId=instance, operations=SPECS)
                async for message in socket:
                    type, call = map(json.loads(message).get, ("type", "payload"))
                    if type == "call.requested": running[call["requestId"]] = asyncio.create_task(answer(running, send, **call))
                    elif type == "call.aborted" and call["requestId"] in running: running[call["requestId"]].cancel()
                    else: delay = print(type, call, file=sys.stderr, flush=True) or 0.25  # registered, or why not
        except (OSError, websockets.WebSocketException) as error:
            if any(final in str(error) for final in ("HTTP 401", "received 4401", "received 4409")): sys.exit(str(error))
            print(error, file=sys.stderr, flush=True)
        for call in running.values(): call.cancel()
        delay = await asyncio.sleep(random.uniform(0, delay), min(2 * delay, 15))
asyncio.run(main(str(uuid.uuid4()), {}))
