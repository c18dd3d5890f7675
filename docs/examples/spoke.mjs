import WebSocket from "ws"; // A spoke without an SDK: npm install ws; ALKHUB_URL=http://… ALKHUB_TOKEN=alk_… node spoke.mjs
async function* reverse(text) { if (text) yield [...text].reverse().join(""); else throw new Error("nothing to reverse"); }
async function* ticks(last) { for (let n = 1; n <= last; n++) { yield n; await new Promise((next) => setTimeout(next, 100)); } }
const operation = (name, type, of, run) => ({ namespace: "demo", name, type, inputSchema: { type: of }, outputSchema: { type: of }, run });
const operations = [operation("reverse", "query", "string", reverse), operation("ticks", "subscription", "integer", ticks)];
(function connect(instanceId, delay) { // after a loss, a random part of the delay (milliseconds) is waited
  const running = new Map(); // from a call's request id to the generator of its answers
  const headers = { Authorization: `Bearer ${process.env.ALKHUB_TOKEN}` }; // in a browser: the subprotocol alk.bearer.<key>
  const socket = new WebSocket(`${process.env.ALKHUB_URL}/v1/ws`, { headers, maxPayload: 2 ** 21 });
  const send = (type, payload) => socket.send(JSON.stringify({ type, id: "", payload }));
  socket.on("open", () => send("hub.register", { requestId: "register", name: "demo-js", instanceId, operations }));
  socket.on("message", async (message) => {
    const { type, payload: { requestId, operationId, input, ...more } } = JSON.parse(message);
    if (type === "call.aborted") return running.get(requestId)?.return(); // the loop below ends
    if (type !== "call.requested") return (delay = 250), console.error(type, JSON.stringify(more)); // registered, or why not
    const { run, type: kind } = operations.find(({ name }) => operationId === `demo.${name}`);
    try {
      for await (const data of running.set(requestId, run(input)).get(requestId))
        send("call.responded", { requestId, output: { data, meta: { source: "local" } } });
      if (kind === "subscription") send("call.completed", { requestId });
    } catch ({ message }) { send("call.error", { requestId, code: "EXECUTION_ERROR", message }); }
    console.error(operationId, "ended", running.delete(requestId));
  });
  socket.on("error", (error) => { if (/ 401$/.test(error.message)) throw error; console.error(error.message); });
  socket.on("close", (code, reason) => {
    for (const answers of running.values()) answers.return();
    if ([4401, 4409].includes(code)) throw new Error(`${code} ${reason}`); // key revoked, or replaced: do not come back
    setTimeout(connect, Math.random() * delay, instanceId, Math.min(2 * delay, 15_000));
  });
})(crypto.randomUUID(), 250);
