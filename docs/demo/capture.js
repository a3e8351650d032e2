// Passes samples of the microphone on, in blocks of `size`.
registerProcessor("capture", class extends AudioWorkletProcessor {
  constructor({processorOptions: {size}}) {
    super();
    this.block = new Float32Array(size);
    this.filled = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.block[this.filled++] = sample;
      if (this.filled < this.block.length) continue;
      this.port.postMessage(this.block.slice());
      this.filled = 0;
    }
    return true;
  }
});
