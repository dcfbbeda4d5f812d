"use strict";
// Undoes pdtrace/figures/packing.py: deflated text, and arrays in byte planes.

async function inflate(text) {
  const binary = atob(text),
    bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function inflateText(text) {
  return new TextDecoder().decode(await inflate(text));
}

// The policy of the page knows the script by its hash, however it gets here.
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await inflateText(document.getElementById("plotly").textContent);
  document.head.append(script);
}

async function unpack(packed) {
  const raw = new Uint8Array(await inflate(packed.b)),
    n = packed.n;
  if (packed.w === 1 && !packed.s) return raw;
  const out = packed.w <= 4 && !packed.s ? new Uint32Array(n) : new Float64Array(n);
  for (let plane = packed.w - 1, at = plane * n; plane >= 0; plane--, at -= n) {
    for (let i = 0; i < n; i++) out[i] = out[i] * 256 + raw[at + i];
  }
  if (packed.s && !packed.d) {
    for (let i = 0; i < n; i++) out[i] = out[i] % 2 ? -(out[i] + 1) / 2 : out[i] / 2;
  }
  if (packed.d) {
    for (let i = 0, sum = 0; i < n; i++) {
      sum += out[i] % 2 ? -(out[i] + 1) / 2 : out[i] / 2;
      out[i] = sum;
    }
  }
  return out;
}
