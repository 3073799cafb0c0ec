// The API as the page sees it: JSON answers, and server-sent events that come back by themselves.
// fetch and not EventSource: only fetch can send a key.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 4000;
const SILENCE_MS = 40000; // the API sends at least a comment every 15 s

const storage = window.sessionStorage;

export class KeyNeeded extends Error {}
export class StreamDown extends Error {}
export class Missing extends Error {}

export const setKey = (key) => storage.setItem("key", key);

function headers(more = {}) {
  const key = storage.getItem("key");
  return key ? { authorization: `Bearer ${key}`, ...more } : more;
}

function refuse(answer) {
  if (answer.status === 401 || answer.status === 403) throw new KeyNeeded(answer.status);
  if (answer.status === 503) throw new StreamDown("stream");
  if (answer.status === 404) throw new Missing(answer.url);
  if (!answer.ok) throw new Error(`${answer.url}: ${answer.status}`);
}

const ask = (path, more = {}) => fetch(path, { headers: headers(more), signal: AbortSignal.timeout(15000) });

export async function load(path) {
  const answer = await ask(path);
  refuse(answer);
  return answer.json();
}

const tags = new Map(); // by path

// Gives what is at a path that is polled; null when nothing has changed.
export async function poll(path) {
  const answer = await ask(path, tags.has(path) ? { "if-none-match": tags.get(path) } : {});
  if (answer.status === 304) return null;
  refuse(answer);
  tags.set(path, answer.headers.get("etag") ?? "");
  return answer.json();
}

// Splits the lines of an event stream into events; feed it text, get {id, kind, data}.
export class Parser {
  constructor() { this.rest = ""; }
  feed(text) {
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop();
    return blocks.map(parseBlock).filter((event) => event.kind || event.id);
  }
}

function parseBlock(block) {
  const event = { id: null, kind: null, data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("event: ")) event.kind = line.slice(7);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

export class EventStream {
  // onEvent(kind, object), onState("open" | "live" | "connecting" | "down" | "key")
  constructor(path, onEvent, onState) {
    Object.assign(this, { path, onEvent, onState, lastId: null, wait: FIRST_WAIT_MS });
  }

  async run() {
    for (;;) {
      try {
        await this.follow();
        this.onState("connecting");
      } catch (error) {
        if (error instanceof KeyNeeded) await this.onState("key");
        else this.onState(error instanceof StreamDown ? "down" : "connecting");
      }
      await new Promise((resolve) => setTimeout(resolve, this.wait));
      this.wait = Math.min(this.wait * 1.6, LONGEST_WAIT_MS);
    }
  }

  async follow() {
    const control = new AbortController();
    let silence = setTimeout(() => control.abort(), SILENCE_MS);
    const more = this.lastId ? { "last-event-id": this.lastId } : {};
    const answer = await fetch(this.path, { headers: headers(more), signal: control.signal, cache: "no-store" });
    refuse(answer);
    this.onState("open"); // perhaps it waits until Kafka is followed
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new Parser();
    for (;;) {
      const { value, done } = await reader.read();
      clearTimeout(silence);
      if (done) return;
      silence = setTimeout(() => control.abort(), SILENCE_MS);
      for (const event of parser.feed(value)) this.take(event);
    }
  }

  take({ id, kind, data }) {
    if (id) this.lastId = id;
    if (!kind) return; // a sign of life
    if (kind === "hello" || kind === "reset" || kind === "resumed") {
      this.wait = FIRST_WAIT_MS;
      this.onState("live");
    }
    this.onEvent(kind, JSON.parse(data || "{}"));
  }
}
