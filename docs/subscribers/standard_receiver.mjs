// Receive events in the Standard Webhooks form: node standard_receiver.mjs, with WEBHOOK_SECRET and perhaps PORT set.
// Node.js 20 or newer, no packages.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const SECRET = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
const TOLERANCE = 5 * 60; // seconds by which a request's time may differ from this machine's clock

const seen = new Set(); // yours is a unique column, in the transaction in which you store the event

// Take an event: store it, and work later where the work takes longer than a few seconds.
function handle(id, event) {
  if (seen.has(id)) return; // sent again, because the answer to the first was lost
  console.log(id, JSON.stringify(event));
  seen.add(id);
}

// The header holds one signature, or two while the secret is rotated: one that fits is enough.
function verified(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!id || !signatures || !(Math.abs(Date.now() / 1000 - Number(timestamp)) < TOLERANCE)) return false;
  const expected = Buffer.from(
    "v1," + createHmac("sha256", SECRET).update(`${id}.${timestamp}.`).update(body).digest("base64"),
  );
  return signatures.split(" ").some((text) => {
    const given = Buffer.from(text);
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

async function receive(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces); // the bytes as they came: parsed and written anew, they would not verify
  if (!verified(request.headers, body)) return response.writeHead(401).end();
  handle(request.headers["webhook-id"], JSON.parse(body));
  response.writeHead(204).end(); // taken, and not sent again; anything but 2xx: sent again later
}

createServer((request, response) => {
  receive(request, response).catch(() => response.writeHead(500).end());
}).listen(Number(process.env.PORT ?? 8080));
