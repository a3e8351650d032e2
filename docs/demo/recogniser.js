// A worker that holds a model. Messages are {id, command, ...}; answers are {id, result} or {id, error}, and before them
// {id, progress}, a share of 1.
import {decodeGreedily, groupWords} from "./transcript.js";

const ENGINE = "./vendor/onnxruntime/ort.wasm.bundle.min.mjs";
const DECODER = "./vendor/decoder/decoder.mjs"; // there only if it was compiled
const MODEL_FILE = "model.float16.onnx";
const LANGUAGE_MODELS = ["lm.bin", "lm.arpa"];

let session, decoder, metadata, ort;
let log_probs = new Float32Array(); // of the latest audio

const commands = {
  /* Load a model of models/; return what the page has to know of it. */
  async load({name}, onProgress) {
    const started = performance.now(), folder = `./models/${encodeURIComponent(name)}/`;
    ort ??= await import(ENGINE);
    ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
    metadata = await (await request(`${folder}metadata.json`)).json();
    const bytes = await download(`${folder}${MODEL_FILE}`, onProgress);
    await session?.release();
    session = await ort.InferenceSession.create(bytes);
    const problem = await loadDecoder(folder);
    return {
      name, problem, bytes: bytes.length, rate_hz: metadata.sample_rate_hz, hasLanguageModel: Boolean(decoder),
      seconds: (performance.now() - started) / 1000,
    };
  },

  /* Transcribe samples at the model's rate; return words, peaks and the time that it took. */
  async transcribe({samples, method}) {
    const started = performance.now();
    const inputs = {
      samples: new ort.Tensor("float32", samples, [1, samples.length]),
      lengths: new ort.Tensor("int32", Int32Array.of(samples.length), [1]),
    };
    const outputs = await session.run(inputs);
    log_probs = outputs.log_probs.data.slice(0, outputs.frames.data[0] * metadata.symbols.length);
    for (const tensor of Object.values(outputs)) tensor.dispose();
    const result = await commands.decode({method});
    return {...result, seconds: (performance.now() - started) / 1000};
  },

  /* Decode the latest audio, with "lm" or "greedy". */
  async decode({method}) {
    const names = metadata.symbols, frame_s = metadata.output_frame_s;
    const peaks = decodeGreedily(log_probs, names.length);
    const symbols = method === "lm" && decoder ? decoder.decode(log_probs).map(placeSymbol) : peaks;
    const words = groupWords(symbols, names, frame_s);
    return {
      words, text: words.map(word => word.text).join(names.includes(" ") ? " " : ""), frame_s,
      log_probs, columns: names.length, peaks: peaks.map(peak => ({...peak, text: names[peak.symbol]})),
    };
  },
};

const placeSymbol = ({symbol, frame, log_p}) => ({symbol, first: frame, end: frame + 1, log_p});

/* Load the decoder, if it was compiled and the model has a language model; return why it cannot be used, "" if it can. */
async function loadDecoder(folder) {
  decoder?.delete();
  decoder = null;
  const file = LANGUAGE_MODELS.find(name => name in metadata.files);
  if (!file) return "This model has no language model.";
  let instance;
  try {
    const make = (await import(DECODER)).default;
    instance = await make();
  } catch {
    return "The decoder for language models was not compiled (make demo, with emscripten).";
  }
  try {
    const words = (await (await request(`${folder}words.txt`)).text()).split("\n");
    instance.FS.writeFile(`/${file}`, await download(`${folder}${file}`, () => {}));
    const options = await (await request(`${folder}decode.json`)).json();
    decoder = new instance.Decoder(metadata.symbols.slice(1), `/${file}`, words, options);
  } catch (error) {
    return `The language model cannot be used: ${error.message ?? error}.`;
  }
  return "";
}

async function request(address) {
  const response = await fetch(address).catch(error => { throw new Error(`${address} cannot be fetched: ${error.message}`); });
  if (!response.ok) throw new Error(`${address} is not there (status ${response.status}): run make demo`);
  return response;
}

/* Return the bytes of a file. */
async function download(address, onProgress) {
  const response = await request(address), total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = response.body.getReader();;) {
    const {value, done: hasEnded} = await reader.read();
    if (hasEnded) break;
    parts.push(value);
    done += value.length;
    if (total) onProgress(Math.min(1, done / total));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

let working = Promise.resolve(); // commands are carried out one after another

onmessage = ({data: {id, command, ...values}}) => {
  working = working.then(async () => {
    try {
      postMessage({id, result: await commands[command](values, progress => postMessage({id, progress}))});
    } catch (error) {
      postMessage({id, error: error.message ?? String(error)});
    }
  });
};
