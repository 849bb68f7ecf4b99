// Receive events in DingTalk's own form: node dingtalk_receiver.mjs, with DINGTALK_TOKEN, _AES_KEY and _OWNER_KEY set.
// Node.js 20 or newer, no packages.

import { createCipheriv, createDecipheriv, createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOKEN = process.env.DINGTALK_TOKEN;
const KEY = Buffer.from(process.env.DINGTALK_AES_KEY + "=", "base64"); // 43 characters, 32 bytes
const OWNER_KEY = Buffer.from(process.env.DINGTALK_OWNER_KEY);

const seen = new Set(); // yours is a unique column, in the transaction in which you store the event

// Take an event: store it, and work later where the work takes longer than a few seconds.
function handle(text) {
  if (JSON.parse(text).EventType === "check_url") return; // a question whether this address works
  const key = createHash("sha256").update(text).digest("hex");
  if (seen.has(key)) return; // sent again, because the answer to the first was lost: its text is the same
  console.log(text);
  seen.add(key);
}

// SHA-1 over the four texts in alphabetical order.
function signature(timestamp, nonce, encrypt) {
  return createHash("sha1").update([TOKEN, timestamp, nonce, encrypt].sort().join("")).digest("hex");
}

// 16 random bytes, the text's length, the text, the owner key, padding.
function unseal(encrypt) {
  const cipher = createDecipheriv("aes-256-cbc", KEY, KEY.subarray(0, 16)).setAutoPadding(false);
  const plain = Buffer.concat([cipher.update(encrypt, "base64"), cipher.final()]);
  const end = 20 + plain.readUInt32BE(16);
  if (!plain.subarray(end, plain.length - plain.at(-1)).equals(OWNER_KEY)) throw new Error("another owner key");
  return plain.subarray(20, end).toString();
}

function seal(text) {
  const message = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(message.length);
  const plain = Buffer.concat([randomBytes(16), length, message, OWNER_KEY]);
  const padding = 32 - (plain.length % 32);
  const cipher = createCipheriv("aes-256-cbc", KEY, KEY.subarray(0, 16)).setAutoPadding(false);
  const sealed = [cipher.update(plain), cipher.update(Buffer.alloc(padding, padding)), cipher.final()];
  const encrypt = Buffer.concat(sealed).toString("base64");
  const timeStamp = String(Date.now());
  const nonce = randomBytes(8).toString("hex");
  return { msg_signature: signature(timeStamp, nonce, encrypt), timeStamp, nonce, encrypt };
}

async function receive(request, response) {
  const query = new URL(request.url, "http://localhost").searchParams;
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const { encrypt } = JSON.parse(Buffer.concat(pieces));
  const expected = Buffer.from(signature(query.get("timestamp"), query.get("nonce"), encrypt));
  // DingTalk itself, where the callback was registered through the API, sends `signature` only
  const given = Buffer.from(query.get("msg_signature") ?? query.get("signature"));
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return response.writeHead(401).end();
  handle(unseal(encrypt));
  // 200 and a sealed `success`: taken, and not sent again; anything else: sent again later
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(seal("success")));
}

createServer((request, response) => {
  receive(request, response).catch((error) => {
    console.error(`not taken; do the aes key and the owner key match? ${error}`);
    response.writeHead(500).end();
  });
}).listen(Number(process.env.PORT ?? 8080));
