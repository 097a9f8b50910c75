// Requests to the service: JSON, files and streams of events.

import { byId } from "./dom.js";

const KEY = "denoised-smoothing-key";

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

async function askForKey() {
  const dialog = byId("key-dialog");
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  sessionStorage.setItem(KEY, byId("key").value.trim());
}

async function call(path, options = {}) {
  let response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.status === 401) {
    await askForKey();
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `The service returned status ${response.status}. Retry later.`);
  }
  return response;
}

export const get = async (path) => (await call(path)).json();

export async function picture(path) {
  return URL.createObjectURL(await (await call(path)).blob());
}

export async function download(path, name) {
  const link = document.createElement("a");
  link.href = await picture(path);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export async function send(path, file) {
  const form = new FormData();
  form.append("file", file, file.name);
  return (await call(path, { method: "POST", body: form })).json();
}

// Calls report(event, values) for each event; returns the result, or throws.
export async function post(path, fields, image, report, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined && value !== null) form.append(name, value);
  }
  if (image) form.append("image", image, "image");
  const response = await call(path, {
    method: "POST", body: form, signal, headers: { accept: "text/event-stream" },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The service closed the connection before the result. Retry later.");
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const part of events) {
      const found = /^event: (.*)\ndata: (.*)$/s.exec(part);
      if (!found) continue;
      const [, event, data] = found;
      const values = JSON.parse(data);
      if (event === "error") throw new Error(values.detail);
      report(event, values);
      if (event === "result") return values;
    }
  }
}
