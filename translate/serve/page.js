"use strict";
const $ = id => document.getElementById(id);
const token = { value: decodeURIComponent(location.hash.slice(1)) };
history.replaceState(null, "", location.pathname);  // a token is not left in the address
const LOOK_MILLISECONDS = 250;
let models = [], limits = {}, chosen = null, running = null, addresses = [];

const headers = () => token.value ? { Authorization: `Bearer ${token.value}` } : {};
const megabytes = bytes => bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(bytes < 1e7 ? 1 : 0)} MiB`;
const pixels = count => `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} Mpx`;

function complain(text) {
  $("fault").textContent = text, $("fault").hidden = !text;
}

// ---- what is on offer

async function begin() {
  const answer = await fetch("/models", { headers: headers() }).catch(() => null);
  if (!answer) return complain("The server does not answer.");
  $("asks").hidden = answer.status !== 401, $("drop").hidden = answer.status === 401;
  if (answer.status === 401) return complain(token.value ? "This token is not the right one." : "");
  ({ models, limits } = await answer.json());
  complain("");
  $("model").replaceChildren(...models.map(each => new Option(each.name)));
  $("limits").textContent = `up to ${megabytes(limits.upload_bytes)} and ${pixels(limits.pixels)}`;
  showDirections();
}

function showDirections() {
  const model = models.find(each => each.name === $("model").value);
  $("direction").replaceChildren(...model.directions.map(each => new Option(each.direction === "ab" ? "A → B" : "B → A", each.direction)));
  showOffer();
}

function showOffer() {
  const offer = models.find(each => each.name === $("model").value).directions.find(each => each.direction === $("direction").value);
  const kind = offer.labels ? `label maps of ${offer.labels} classes` : `${offer.in.channels === 1 ? "grey" : offer.in.channels === 3 ? "colour" : `${offer.in.channels}-channel`} images`;
  $("known").textContent = `Takes ${kind}, ${offer.in.bits === "float" ? "floats" : `${offer.in.bits} bits`}` + (offer.scale_in_words ? `; trained on images with ${offer.scale_in_words}.` : ".");
  const trained = $("resize").options[1];
  trained.disabled = !offer.scale;
  if (!offer.scale) $("resize").value = "";
  foretell();
}

const settings = () => ({ model: $("model").value, direction: $("direction").value, ...($("resize").value ? { resize: $("resize").value } : {}) });

// ---- an image is chosen

function addressOf(content) {
  addresses.push(URL.createObjectURL(content));
  return addresses.at(-1);
}

async function decoded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return { address, width: image.naturalWidth, height: image.naturalHeight };
}

// As the browser can show it: the file itself, or what the server makes visible of it.
async function visible(content, name) {
  try {
    return await decoded(addressOf(content));
  } catch {
    const form = new FormData();
    form.append("image", content, name);
    const answer = await fetch("/preview", { method: "POST", body: form, headers: headers() });
    if (!answer.ok) throw new Error((await answer.json()).error);
    return decoded(addressOf(await answer.blob()));
  }
}

async function choose(file) {
  if (!file || running) return;
  complain(""), $("result").hidden = true;
  addresses.forEach(URL.revokeObjectURL), addresses = [];
  chosen = { file };
  $("drop").classList.add("small-now"), $("chosen").hidden = false, $("go").disabled = false;
  $("name").textContent = file.name, $("size").textContent = megabytes(file.size), $("memory").textContent = "";
  if (file.size > limits.upload_bytes) {
    $("go").disabled = true;
    return complain(`This file is larger than the server takes: ${megabytes(limits.upload_bytes)}.`);
  }
  const mine = chosen;
  try {
    mine.shown = await visible(file, file.name);
    if (mine !== chosen) return;
    $("size").textContent = `${mine.shown.width}×${mine.shown.height} px · ${megabytes(file.size)}`;
    await foretell();
  } catch (error) {
    if (mine === chosen) complain(`This image cannot be shown here: ${error.message}`);
  }
}

async function foretell() {
  const mine = chosen;
  if (!mine || !mine.shown) return;
  const asked = new URLSearchParams({ ...settings(), height: mine.shown.height, width: mine.shown.width });
  const answer = await fetch(`/memory?${asked}`, { headers: headers() }).catch(() => null);
  if (!answer || mine !== chosen) return;
  const said = await answer.json();
  $("memory").textContent = answer.ok ? `${said.fits ? "memory: " : ""}${said.in_words}` : said.error;
}

// ---- it is translated

const WORDS = {
  waiting: about => about.ahead ? `waiting: ${about.ahead} before it` : "waiting",
  working: about => `translating, ${about.seconds.toFixed(1)} s` + (about.expected ? ` of about ${about.expected.toFixed(1)} s` : ""),
  sending: () => "receiving",
};

function show(text, share) {
  $("state").textContent = text;
  if (share === null) $("bar").removeAttribute("value"); else $("bar").value = share;
}

async function watch(request, ticket) {
  while (running === request) {
    const answer = await fetch(`/progress/${ticket}`, { headers: headers() }).catch(() => null);
    if (running === request && !request.received && answer && answer.ok) {
      const about = await answer.json();
      if (WORDS[about.state]) show(WORDS[about.state](about), about.state === "working" && about.expected ? Math.min(about.seconds / about.expected, 0.99) : null);
    }
    await new Promise(done => setTimeout(done, LOOK_MILLISECONDS));
  }
}

function translate() {
  const form = new FormData(), request = new XMLHttpRequest();
  for (const [name, value] of Object.entries(settings())) form.append(name, value);
  form.append("image", chosen.file, chosen.file.name);
  const ticket = Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");

  // One request at a time; what it does is shown while it does it.
  running = request;
  complain(""), $("result").hidden = true, $("work").hidden = false, $("go").disabled = true, $("drop").inert = true;
  show("uploading", 0);
  request.open("POST", "/translate");
  for (const [name, value] of Object.entries({ ...headers(), "X-Ticket": ticket })) request.setRequestHeader(name, value);
  request.responseType = "blob";
  request.upload.onprogress = event => show(`uploading, ${megabytes(event.loaded)} of ${megabytes(event.total)}`, event.loaded / event.total);
  request.upload.onload = () => { show("waiting", null), watch(request, ticket); };
  request.onprogress = event => {
    request.received = true;
    show(`receiving, ${megabytes(event.loaded)}`, event.lengthComputable ? event.loaded / event.total : null);
  };
  request.onerror = () => complain("The server has ended the connection, or cannot be reached.");
  request.onload = async () => {
    if (request.status === 200) return present(request);
    const said = await request.response.text().then(JSON.parse).catch(() => ({ error: `the server answers ${request.status}` }));
    const later = request.getResponseHeader("Retry-After");
    complain(later ? `The server is busy; try again in ${later} s.` : said.error);
    if (request.status === 401) begin();
  };
  request.onloadend = () => {
    running = null;
    $("work").hidden = true, $("go").disabled = false, $("drop").inert = false;
  };
  request.send(form);
}

async function present(request) {
  // The file goes under the name that the server gives it.
  const content = request.response, about = request.getResponseHeader("Content-Disposition") || "";
  const coded = about.match(/filename\*=utf-8''([^;]+)/i), plain = about.match(/filename="([^"]+)"/);
  const name = coded ? decodeURIComponent(coded[1]) : plain ? plain[1] : "image.png";
  $("download").href = addressOf(content), $("download").download = name;
  $("download").textContent = `Download ${name.length > 40 ? "it" : name} (${megabytes(content.size)})`;
  $("notes").textContent = decodeURIComponent(request.getResponseHeader("X-Notes") || "");
  $("result").hidden = false;

  // Before and after, in the slider that all pages have.
  const figure = document.querySelector(".slider");
  figure.hidden = true;
  try {
    const after = await visible(content, name), before = chosen.shown;
    const images = figure.querySelectorAll(".pictures img");
    images[0].src = (before || after).address, images[1].src = after.address;
    figure.style.setProperty("--width", `${after.width}px`), figure.style.setProperty("--aspect", after.width / after.height);
    figure.querySelector(".pictures").style.aspectRatio = `${after.width} / ${after.height}`;
    figure.querySelector("figcaption").textContent = `${name} · ${after.width}×${after.height} px`;
    figure.hidden = false;
    figure.querySelector("input").dispatchEvent(new Event("input"));
  } catch (error) {
    $("notes").textContent = `It cannot be shown here (${error.message}), but downloaded. ${$("notes").textContent}`;
  }
}

// ---- hands

$("model").addEventListener("input", showDirections);
$("direction").addEventListener("input", showOffer);
$("resize").addEventListener("input", foretell);
$("choices").addEventListener("submit", event => event.preventDefault());
$("asks").addEventListener("submit", event => { event.preventDefault(), token.value = $("token").value, begin(); });
$("file").addEventListener("input", event => { choose(event.target.files[0]), event.target.value = ""; });
$("go").addEventListener("click", translate);
$("stop").addEventListener("click", () => running && running.abort());
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && !$("drop").hidden) choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", event => choose(event.clipboardData.files[0]));
begin();
