// A small web app that wants of a proxy what web apps want: uploads, cookies, a WebSocket, an event stream. Runs in the guest, on its loopback address.
import { createServer } from "node:http";
import process from "node:process";

import { WebSocketServer } from "./node_modules/ws/wrapper.mjs";

const page = `<!doctype html><title>loading</title><link rel="stylesheet" href="style.css"><h1>guest</h1><pre id="facts"></pre>
<script type="module" src="app.js"></script>`;
const app = `
const facts = { origin: location.origin, isSecure: isSecureContext, cookies: document.cookie };
const answered = fetch("api?x=1", { method: "POST", body: "upload".repeat(100000) }).then((answer) => answer.json());
const echoed = new Promise((resolve) => {
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/echo");
  socket.onopen = () => socket.send("hello from the page");
  socket.onmessage = ({ data }) => resolve(data);
});
const events = new Promise((resolve) => {
  const seen = [];
  const source = new EventSource("events");
  source.addEventListener("tick", ({ data }) => {
    if (seen.push(data) === 3) {
      source.close();
      resolve(seen);
    }
  });
});
Object.assign(facts, { answer: await answered, echo: await echoed, events: await events });
document.querySelector("#facts").textContent = JSON.stringify(facts);
document.title = "loaded";
`;
const types = { "/": "text/html", "/style.css": "text/css", "/app.js": "text/javascript" };

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://guest");
  const head = (status, type) => response.writeHead(status, { "content-type": type, "set-cookie": "app=its-own; Path=/" });
  if (pathname === "/events") {
    head(200, "text/event-stream").flushHeaders();
    let count = 0;
    const timer = setInterval(() => response.write(`event: tick\nid: ${count}\ndata: ${(count += 1)}\n\n`), 50);
    return request.on("close", () => clearInterval(timer));
  }
  if (pathname === "/api") {
    let bytes = 0;
    request.on("data", (chunk) => (bytes += chunk.length));
    const { cookie = "", host } = request.headers;
    return request.on("end", () => head(200, "application/json").end(JSON.stringify({ bytes, url: request.url, cookie, host })));
  }
  const type = types[pathname];
  if (type === undefined) return head(404, "text/plain").end("no such page");
  return head(200, type).end({ "/": page, "/style.css": "h1 { color: rgb(1, 2, 3) }", "/app.js": app }[pathname]);
});
const echo = new WebSocketServer({ server, path: "/echo" });
echo.on("connection", (socket) => socket.on("message", (data) => socket.send(`echo: ${data}`)));
server.listen(Number(process.argv[2]), "127.0.0.1");
