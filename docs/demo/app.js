// The page: what is pressed, dropped and shown. The worker in recogniser.js computes.
import {readFile, Recording} from "./audio.js";
import {draw, HEIGHT, measure} from "./picture.js";

const MOST_RECORDED_S = 60; // of one recording, of which all is recognised anew for each result so far
const MOST_READ_S = 600; // of a file: one run needs all of it in memory
const NEWS_S = 0.4; // of new audio, for the next result so far
const FLOOR_DB = -60; // left end of the level meter

const $ = id => document.getElementById(id);
const create = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const choices = [...document.querySelectorAll("[data-method]")];

// ---- The worker

const worker = new Worker("recogniser.js", {type: "module"});
const waiting = new Map(); // by id: {done, fail, onProgress}
let asked = 0;

worker.onmessage = ({data: {id, result, error, progress}}) => {
  const {done, fail, onProgress} = waiting.get(id);
  if (progress !== undefined) return onProgress(progress);
  waiting.delete(id);
  if (error === undefined) done(result);
  else fail(new Error(error));
};
worker.onerror = event => showError(`The recogniser cannot be started: ${event.message || "reload the page"}.`);

/* Carry out a command of the worker. */
function ask(command, values, onProgress = () => {}) {
  const id = asked++;
  worker.postMessage({id, command, ...values});
  return new Promise((done, fail) => waiting.set(id, {done, fail, onProgress}));
}

// ---- The model

let model = null; // what the worker says of it
let method = "greedy";

async function load(name) {
  model = null;
  forget();
  setBusy("Loading the model");
  $("job").hidden = false;
  const progress = share => { $("progress").value = share; };
  progress(0);
  try {
    model = await ask("load", {name}, progress);
    method = model.hasLanguageModel ? "lm" : "greedy";
    showMethod();
    showFigures();
  } finally {
    $("job").hidden = true;
    setBusy("");
  }
}

function showMethod() {
  for (const choice of choices) choice.setAttribute("aria-pressed", choice.dataset.method === method);
  const [button] = choices.filter(choice => choice.dataset.method === "lm");
  button.disabled = !model?.hasLanguageModel;
  button.title = model?.problem ?? "";
}

async function start() {
  const response = await fetch("models/index.json").catch(() => null);
  if (!response?.ok) throw new Error("There is no model: run make demo, and serve this folder with python -m http.server.");
  const names = await response.json();
  $("models").append(...names.map(name => new Option(name)));
  $("models").hidden = names.length < 2;
  await load(names[0]);
}

// ---- Results

let latest = null; // {name, samples, rate_hz, seconds, and what the worker returns}
let article = null; // of the latest result

async function recognise(name, samples) {
  const {rate_hz} = model;
  const result = await ask("transcribe", {samples, method});
  show({name, samples, rate_hz, ...result});
}

function show(result) {
  latest = result;
  article = create("article");
  article.append(create("h3", {textContent: `${result.name}, ${formatSeconds(result.samples.length / result.rate_hz)}`}), create("ol"));
  $("results").append(article);
  showWords();
  $("clear").disabled = false;
  $("empty").hidden = true;
  $("figure").hidden = false;
  $("scroll").scrollLeft = 0;
  showFigures();
  showPicture();
  article.scrollIntoView({block: "nearest"});
}

/* Forget the latest result, which another model cannot decode. */
function forget() {
  latest = article = null;
  $("figure").hidden = true;
}

function showWords() {
  const list = create("ol", {className: "words"});
  for (const {text, start_s, end_s, confidence} of latest.words) {
    const percent = Math.round(confidence * 100), item = create("li", {title: `${percent} % confidence`});
    const word = create("span", {textContent: text, dir: "auto"});
    word.style.setProperty("--sure", Math.max(0, Math.min(100, (percent - 40) / 0.6)).toFixed(0));
    item.append(word, create("small", {textContent: `${start_s.toFixed(2)}–${end_s.toFixed(2)} s`}));
    list.append(item);
  }
  if (!latest.words.length) list.append(create("li", {textContent: "No speech was recognised."}));
  article.querySelector("ol").replaceWith(list);
}

function showPicture() {
  if (!latest) return;
  const canvas = $("picture"), width = $("scroll").clientWidth, seconds = latest.samples.length / latest.rate_hz;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${HEIGHT}px`;
  $("span").style.width = `${measure(seconds, width).whole}px`;
  $("shown").textContent = latest.name;
  canvas.setAttribute("aria-label", latest.words.map(({text, start_s, end_s}) => `${text}: ${start_s.toFixed(2)} to ${end_s.toFixed(2)} seconds`).join(", ") || "no words");
  draw(canvas, latest, $("scroll").scrollLeft);
}

function showFigures() {
  const loaded = `Model ${model.name}: ${(model.bytes / 1e6).toFixed(1)} MB, loaded in ${formatSeconds(model.seconds)}.`;
  const duration_s = latest && latest.samples.length / latest.rate_hz;
  const latestText = latest ? ` Latest audio: ${formatSeconds(duration_s)}, recognised in ${formatSeconds(latest.seconds)}, real-time factor ${(latest.seconds / duration_s).toFixed(3)}.` : "";
  const microphone = navigator.mediaDevices ? "" : " Browsers give the microphone only to pages of localhost and of HTTPS.";
  $("figures").textContent = `${loaded}${latestText}${model.problem && ` ${model.problem}`}${microphone}`;
}

const formatSeconds = seconds => `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;

// ---- Messages

function showError(message) {
  $("error").textContent = message;
  $("alert").hidden = false;
}

function setStatus(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

/* Show what the page is busy with, and whether audio can be given; "" if it is ready. */
function setBusy(text) {
  const isReady = !text && model;
  $("mic").disabled = !(isReady && navigator.mediaDevices);
  $("files").disabled = $("models").disabled = !isReady;
  setStatus(text || (model ? "Ready" : "No model"));
}

// ---- Microphone: the button starts and stops; the space bar records while it is held

let recording = null;

async function startRecording() {
  if (recording || $("mic").disabled) return;
  $("alert").hidden = true;
  const current = recording = new Recording(showLevel, () => stopRecording("The microphone was disconnected."));
  $("mic").setAttribute("aria-pressed", true);
  $("files").disabled = $("models").disabled = true;
  setStatus("Listening");
  try {
    await current.start();
    await showPartials(current);
  } catch (error) {
    if (recording !== current) return;
    showError(error.message);
    stopRecording();
  }
}

/* While recording, recognise what was said so far again and again. */
async function showPartials(current) {
  for (let before_s = 0; !current.isClosed;) {
    await new Promise(done => setTimeout(done, 50));
    if (current.duration_s < before_s + NEWS_S || current.isClosed) continue;
    before_s = current.duration_s;
    if (before_s > MOST_RECORDED_S) return stopRecording(`A recording lasts ${MOST_RECORDED_S} s at most.`);
    const {text} = await ask("transcribe", {samples: await current.read(model.rate_hz), method});
    if (current.isClosed) return;
    $("empty").hidden = $("empty").hidden || Boolean(text);
    $("partial").hidden = !text;
    $("partial").textContent = text;
  }
}

async function stopRecording(problem = "") {
  const current = recording;
  if (!current) return;
  recording = null;
  const samples = current.context ? current.read(model.rate_hz) : [];
  current.close();
  $("mic").setAttribute("aria-pressed", false);
  showLevel(FLOOR_DB);
  if (problem) showError(problem);
  setBusy("Transcribing");
  try {
    const spoken = await samples;
    if (spoken.length) await recognise("Microphone", spoken);
  } catch (error) {
    showError(error.message);
  }
  $("partial").hidden = true;
  setBusy("");
}

function showLevel(level_db) {
  const shown_db = Math.max(FLOOR_DB, level_db);
  $("bar").style.width = `${(100 * Math.min(1, 1 - shown_db / FLOOR_DB)).toFixed(1)}%`;
  $("level").setAttribute("aria-valuenow", Math.round(shown_db));
}

const isControl = target => target instanceof Element && target !== $("mic") && target.closest("input, select, button, label");
let isHeld = false; // the space bar

addEventListener("keydown", event => {
  if (event.code !== "Space" || event.ctrlKey || event.altKey || event.metaKey || isControl(event.target)) return;
  event.preventDefault();
  if (event.repeat || recording) return;
  isHeld = true;
  startRecording();
});
addEventListener("keyup", event => {
  if (event.code !== "Space" || !isHeld) return;
  event.preventDefault();
  release();
});
addEventListener("blur", release);

function release() {
  if (isHeld) stopRecording();
  isHeld = false;
}

$("mic").addEventListener("click", () => (recording ? stopRecording() : startRecording()));

// ---- Files

async function addFiles(files) {
  if (!files.length || $("files").disabled) return;
  $("alert").hidden = true;
  for (const file of files) {
    setBusy(`Transcribing ${file.name}`);
    try {
      const samples = await readFile(file, model.rate_hz);
      if (samples.length > MOST_READ_S * model.rate_hz) throw new Error(`${file.name} is longer than ${MOST_READ_S / 60} minutes: cut it, or use the program.`);
      await recognise(file.name, samples);
    } catch (error) {
      showError(error.message);
    }
  }
  setBusy("");
}

$("files").addEventListener("change", async event => {
  await addFiles([...event.target.files]);
  event.target.value = "";
});

const hasFiles = event => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  addFiles([...event.dataTransfer.files]);
});

// ---- The rest of the page

for (const choice of choices)
  choice.addEventListener("click", async () => {
    method = choice.dataset.method;
    showMethod();
    if (!latest || recording) return;
    Object.assign(latest, await ask("decode", {method}));
    showWords();
    showPicture();
  });
$("models").addEventListener("change", () => load($("models").value).catch(error => showError(error.message)));
$("clear").addEventListener("click", () => {
  $("results").replaceChildren();
  $("clear").disabled = true;
  $("empty").hidden = false;
  forget();
  showFigures();
});
$("dismiss").addEventListener("click", () => { $("alert").hidden = true; });
$("scroll").addEventListener("scroll", () => requestAnimationFrame(showPicture));
addEventListener("resize", () => requestAnimationFrame(showPicture));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPicture);

start().catch(error => { showError(error.message); setBusy(""); });
