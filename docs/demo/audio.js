// Samples from files and from the microphone.

const BLOCK_S = 0.02; // of the microphone

/* Return the mono samples of an audio file at a rate. */
export async function readFile(file, rate_hz) {
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, rate_hz).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} cannot be read as audio by this browser: use WAV, FLAC, MP3, Ogg or M4A.`);
  }
  const mono = audio.getChannelData(0);
  for (let channel = 1; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let n = 0; n < mono.length; n++) mono[n] = (mono[n] * channel + samples[n]) / (channel + 1);
  }
  return mono;
}

/* Convert samples from one rate to another. */
export async function resample(samples, from_hz, to_hz) {
  if (from_hz === to_hz || !samples.length) return samples;
  const context = new OfflineAudioContext(1, Math.max(1, Math.round((samples.length * to_hz) / from_hz)), to_hz);
  const buffer = new AudioBuffer({length: samples.length, sampleRate: from_hz});
  buffer.copyToChannel(samples, 0);
  const source = new AudioBufferSourceNode(context, {buffer});
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/* A recording in progress. onLevel: called with the level of each block in decibels. onLost: if the microphone is taken away. */
export class Recording {
  constructor(onLevel, onLost) {
    Object.assign(this, {onLevel, onLost, blocks: [], isClosed: false});
  }

  async start() {
    try {
      this.media = await navigator.mediaDevices.getUserMedia({
        audio: {channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false},
      });
    } catch (error) {
      throw new Error(explain(error));
    }
    if (this.isClosed) return this.close();
    this.media.getAudioTracks()[0].onended = this.onLost;
    this.context = new AudioContext({latencyHint: "interactive"});
    await this.context.audioWorklet.addModule("capture.js");
    if (this.isClosed) return;
    const size = Math.round(this.context.sampleRate * BLOCK_S);
    const node = new AudioWorkletNode(this.context, "capture", {
      channelCount: 1, channelCountMode: "explicit", processorOptions: {size},
    });
    node.port.onmessage = ({data}) => this.receive(data);
    this.context.createMediaStreamSource(this.media).connect(node).connect(this.context.destination); // silent, but needed
  }

  receive(block) {
    if (this.isClosed) return;
    this.blocks.push(block);
    const power = block.reduce((sum, sample) => sum + sample * sample, 0) / block.length;
    this.onLevel(power > 0 ? 10 * Math.log10(power) : -Infinity);
  }

  get duration_s() { return this.blocks.length * BLOCK_S; }

  /* Return what was recorded so far at a rate. */
  async read(rate_hz) {
    if (!this.blocks.length) return new Float32Array();
    const size = this.blocks[0].length, samples = new Float32Array(this.blocks.length * size);
    this.blocks.forEach((block, number) => samples.set(block, number * size));
    return resample(samples, this.context.sampleRate, rate_hz);
  }

  close() {
    this.isClosed = true;
    for (const track of this.media?.getTracks() ?? []) { track.onended = null; track.stop(); }
    this.context?.close();
  }
}

function explain({name, message}) {
  if (name === "NotAllowedError") return "The microphone was refused: allow it for this page in the browser's address bar, and in the system's settings.";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "No microphone was found: connect one, or choose an audio file.";
  if (name === "NotReadableError") return "The microphone cannot be used: another program may be using it.";
  return `The microphone cannot be used: ${message || name}.`;
}
