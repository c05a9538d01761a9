// Requests to the server: the token, waiting while its queue is full, errors as sentences.

import { Problem } from "./problem.js";

const TRIES = 20;

export class Server {
  /** @param {(wrong: boolean) => Promise<string>} askToken shows a dialog. */
  constructor(askToken) {
    this.askToken = askToken;
    this.token = sessionStorage.getItem("grad-token");
    this.asking = null;
  }

  info() {
    return this.#call("info");
  }

  /** The models of a server that has several. */
  models() {
    return this.#call("models");
  }

  /** Score a file; with preview, the server sends a picture of what browsers can't show. */
  predict(file, { className, preview }) {
    const query = new URLSearchParams({ map: "true" });
    if (className !== null) query.set("class_name", className);
    if (preview) query.set("preview", "true");
    return this.#call(`predict?${query}`, posted(file));
  }

  /** Keep a file with what was said of it, "good" or "defect". */
  keep(file, said, className) {
    const query = new URLSearchParams({ said, name: file.name });
    if (className !== null) query.set("class_name", className);
    return this.#call(`feedback?${query}`, posted(file));
  }

  feedback() {
    return this.#call("feedback");
  }

  /** Have the model learn from the feedback of a class. */
  learn(className) {
    const query = className === null ? "" : `?${new URLSearchParams({ class_name: className })}`;
    return this.#call(`learn${query}`, { method: "POST" });
  }

  /** Make a score the model's threshold of a class. */
  saveThreshold(image, className) {
    const query = new URLSearchParams({ image });
    if (className !== null) query.set("class_name", className);
    return this.#call(`threshold?${query}`, { method: "POST" });
  }

  /** Give the model a region of interest for a class, or for all: a picture, white inside. */
  saveRegion(picture, className) {
    const query = className === null ? "" : `?${new URLSearchParams({ class_name: className })}`;
    return this.#call(`roi${query}`, posted(picture));
  }

  async #call(path, options = {}) {
    for (let attempt = 1; ; attempt++) {
      const sent = this.token;
      const response = await this.#fetch(path, options, sent);
      if (response.ok) return response.json();
      if (response.status === 401) {
        await this.#renewToken(sent);
      } else if (response.status === 503 && attempt < TRIES) {
        const seconds = Number(response.headers.get("Retry-After")) || 1;
        await new Promise((done) => setTimeout(done, 1000 * seconds * (0.5 + Math.random())));
      } else {
        throw new Problem(await sentence(response));
      }
    }
  }

  async #fetch(path, options, token) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    try {
      return await fetch(path, { ...options, headers, credentials: "omit" });
    } catch {
      throw new Problem("The server does not answer: is it still running?");
    }
  }

  /** Ask once, however many requests were refused for the same token. */
  async #renewToken(refused) {
    if (this.token !== refused) return;
    this.asking ??= this.askToken(Boolean(refused)).finally(() => (this.asking = null));
    this.token = await this.asking;
    sessionStorage.setItem("grad-token", this.token);
  }
}

function posted(file) {
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  return { method: "POST", body: file, headers: { "Content-Type": type } };
}

async function sentence(response) {
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") return detail;
    if (Array.isArray(detail) && detail[0]?.msg) return detail[0].msg;
  } catch {
    // The answer was no JSON: a proxy's, say.
  }
  return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
}
