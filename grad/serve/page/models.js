// The page of a server with several models: one link for each.

import { Server } from "./api.js";
import { askToken } from "./token.js";

const list = document.getElementById("models");

function item({ name, model, model_version, classes, device }) {
  const link = Object.assign(document.createElement("a"), { className: "card", href: `${name}/` });
  const facts = `${model} ${model_version} · ${device}`;
  for (const [tag, text] of [["strong", name], ["span", classes.join(", ")], ["small", facts]]) {
    link.append(Object.assign(document.createElement(tag), { textContent: text }));
  }
  const entry = document.createElement("li");
  entry.append(link);
  return entry;
}

try {
  list.replaceChildren(...(await new Server(askToken).models()).map(item));
} catch (error) {
  const banner = document.getElementById("banner");
  banner.textContent = error.message;
  banner.hidden = false;
}
