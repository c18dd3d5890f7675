// A spoke in plain JavaScript: npm install ws; ALKHUB_URL=http://… ALKHUB_TOKEN=alk_… node spoke.mjs
import WebSocket from "ws";

const text = { type: "string" };
const operations = {
  "demo.reverse": async (input) => [...input].reverse().join(""),
  "demo.fail": async () => { throw new Error("as asked"); },
};
const specs = Object.keys(operations).map((id) => {
  const [namespace, name] = id.split(".");
  return { namespace, name, type: "query", description: id, inputSchema: text, outputSchema: text };
});

function connect(delay = 250) {
  const url = process.env.ALKHUB_URL.replace(/^http/, "ws") + "/v1/ws";
  const socket = new WebSocket(url, { headers: { authorization: `Bearer ${process.env.ALKHUB_TOKEN}` } });
  const send = (type, payload) => socket.send(JSON.stringify({ type, id: "", payload }));
  socket.on("open", () => {
    send("hub.register", { requestId: "register", name: "demo-js", instanceId: `js-${process.pid}`, operations: specs });
  });
  socket.on("message", async (data) => {
    const { type, payload } = JSON.parse(data);
    if (payload.requestId === "register") console.error(type, JSON.stringify(payload.output?.data ?? payload));
    if (type === "call.responded") delay = 250; // registered: the next loss starts from the first delay again
    if (type !== "call.requested") return; // an abort needs no answer, and these operations end at once
    const { requestId, operationId, input } = payload;
    try {
      send("call.responded", { requestId, output: { data: await operations[operationId](input), meta: { source: "local" } } });
    } catch (error) {
      send("call.error", { requestId, code: "EXECUTION_ERROR", message: error.message });
    }
  });
  socket.on("error", (error) => console.error(error.message));
  socket.on("close", () => setTimeout(connect, Math.random() * delay, Math.min(2 * delay, 15_000)));
}
connect();
