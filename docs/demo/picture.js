// A picture of speech: its spectrogram, the probabilities of the network's symbols below, and the words.
import {bestColumn} from "./transcript.js";

const SIZE = 512; // of the Fourier transform
const WINDOW_S = 0.02;
const RANGE_DB = 75; // below the loudest bin, shown as black
const MAP = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
const SPECTROGRAM = 150, GAP = 10, PEAKS = 90, WORDS = 44, AXIS = 24; // heights
const LEFT = 48; // of the scale on the left side
export const HEIGHT = SPECTROGRAM + GAP + PEAKS + WORDS + AXIS;
const LEAST_SCALE = 180, GREATEST_SCALE = 420; // pixels a second

/* Return the pixels a second with which so many seconds fill a width, within limits, and the width that the whole picture has. */
export function measure(seconds, width) {
  const scale = Math.max(LEAST_SCALE, Math.min(GREATEST_SCALE, (width - LEFT - 8) / seconds));
  return {scale, whole: Math.max(width, Math.ceil(seconds * scale) + LEFT + 8)};
}

/* Draw the part of a result that begins `scrolled` pixels from its start. result: {samples, rate_hz, words, peaks, log_probs, columns, frame_s}. */
export function draw(canvas, result, scrolled) {
  const style = getComputedStyle(canvas), density = devicePixelRatio || 1, width = canvas.clientWidth;
  const {scale} = measure(result.samples.length / result.rate_hz, width), start_s = scrolled / scale;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(HEIGHT * density);
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const colours = {ink: style.color, quiet: style.getPropertyValue("--quiet"), accent: style.getPropertyValue("--accent"), ground: style.getPropertyValue("--card")};
  const view = {
    pen, colours, width, result, scale, start_s, end_s: start_s + (width - LEFT) / scale,
    x: seconds => LEFT + (seconds - start_s) * scale,
  };
  pen.font = `12px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  drawSpectrogram(view);
  drawPeaks(view, SPECTROGRAM + GAP);
  drawWords(view, SPECTROGRAM + GAP + PEAKS);
  drawSeconds(view, HEIGHT - AXIS);
  drawScales(view);
}

function drawSpectrogram({pen, result: {samples, rate_hz}, width, scale, start_s, x}) {
  const columns = Math.max(1, Math.min(Math.ceil(x(samples.length / rate_hz)), width) - LEFT);
  const image = new ImageData(columns, SIZE / 2);
  const powers = Array.from({length: columns}, (_, column) => powerAt(samples, rate_hz, start_s + column / scale));
  const top_db = powers.reduce((top, power) => power.reduce((a, b) => Math.max(a, b), top), -120);
  powers.forEach((power, column) => {
    for (let bin = 0; bin < SIZE / 2; bin++) {
      const place = ((SIZE / 2 - 1 - bin) * columns + column) * 4;
      image.data.set(colourOf((power[bin] - top_db) / RANGE_DB + 1), place);
      image.data[place + 3] = 255;
    }
  });
  const layer = new OffscreenCanvas(columns, SIZE / 2);
  layer.getContext("2d").putImageData(image, 0, 0);
  pen.drawImage(layer, LEFT, 0, columns, SPECTROGRAM);
}

/* Return the power spectrum around a time in decibels. */
function powerAt(samples, rate_hz, seconds) {
  const length = Math.round(WINDOW_S * rate_hz), begin = Math.round(seconds * rate_hz - length / 2);
  const real = new Float64Array(SIZE), imaginary = new Float64Array(SIZE);
  for (let n = 0; n < Math.min(length, SIZE); n++)
    real[n] = (samples[begin + n] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * n) / length));
  transform(real, imaginary);
  return Float32Array.from({length: SIZE / 2}, (_, bin) => 10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12));
}

/* The fast Fourier transform, in place. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) { // bit-reversed order
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let half = 1; half < size; half *= 2)
    for (let k = 0; k < half; k++) {
      const cosine = Math.cos((Math.PI * k) / half), sine = -Math.sin((Math.PI * k) / half);
      for (let i = k; i < size; i += 2 * half) {
        const j = i + half, a = real[j] * cosine - imaginary[j] * sine, b = real[j] * sine + imaginary[j] * cosine;
        real[j] = real[i] - a;
        imaginary[j] = imaginary[i] - b;
        real[i] += a;
        imaginary[i] += b;
      }
    }
}

function colourOf(share) {
  const place = Math.max(0, Math.min(1, share)) * (MAP.length - 1), index = Math.min(Math.floor(place), MAP.length - 2);
  return MAP[index].map((from, channel) => from + (MAP[index + 1][channel] - from) * (place - index));
}

/* The probability of the best symbol but the blank in each frame, and the symbols that greedy decoding reads. */
function drawPeaks({pen, colours, result: {log_probs, columns, frame_s, peaks}, width, start_s, end_s, x}, top) {
  const label = 22, height = PEAKS - label - 4, bottom = top + PEAKS - 4;
  const frames = log_probs.length / columns;
  const first = Math.max(0, Math.floor(start_s / frame_s) - 1), last = Math.min(frames, Math.ceil(end_s / frame_s) + 1);
  pen.save();
  clip(pen, width, top, PEAKS);
  pen.beginPath();
  pen.moveTo(x((first + 0.5) * frame_s), bottom);
  for (let frame = first; frame < last; frame++) {
    const best = bestColumn(log_probs, frame * columns, columns, 1);
    pen.lineTo(x((frame + 0.5) * frame_s), bottom - Math.exp(log_probs[frame * columns + best]) * height);
  }
  pen.lineTo(x((last - 0.5) * frame_s), bottom);
  pen.strokeStyle = pen.fillStyle = colours.accent;
  pen.stroke();
  pen.globalAlpha = 0.25;
  pen.fill();
  pen.globalAlpha = 1;
  pen.textAlign = "center";
  for (const {text, first, end} of peaks) {
    pen.fillStyle = text === " " ? colours.quiet : colours.ink;
    pen.fillText(text === " " ? "␣" : text, x(((first + end) / 2) * frame_s), top + label / 2);
  }
  pen.restore();
}

function drawWords({pen, colours, result: {words}, width, x}, top) {
  pen.save();
  clip(pen, width, top, WORDS);
  pen.textAlign = "center";
  for (const {text, start_s, end_s} of words) {
    pen.fillStyle = colours.accent;
    pen.fillRect(x(start_s), top + 4, Math.max(2, x(end_s) - x(start_s)), 8);
    pen.fillStyle = colours.ink;
    pen.fillText(text, x((start_s + end_s) / 2), top + 26);
  }
  pen.restore();
}

function drawSeconds({pen, colours, start_s, end_s, x}, top) {
  pen.fillStyle = colours.quiet;
  pen.textAlign = "center";
  for (let tick = Math.ceil(start_s * 2); tick / 2 < end_s; tick++) {
    pen.fillRect(x(tick / 2), top, 1, 4);
    pen.fillText(`${(tick / 2).toFixed(1)} s`, Math.max(LEFT + 12, x(tick / 2)), top + 14);
  }
}

function drawScales({pen, colours, result: {rate_hz}}) {
  pen.fillStyle = colours.ground;
  pen.fillRect(0, 0, LEFT - 2, HEIGHT);
  pen.fillStyle = colours.quiet;
  pen.textAlign = "right";
  pen.fillText(`${rate_hz / 2000} kHz`, LEFT - 8, 8);
  pen.fillText("0", LEFT - 8, SPECTROGRAM - 6);
  pen.fillText("peaks", LEFT - 8, SPECTROGRAM + GAP + PEAKS / 2);
  pen.fillText("words", LEFT - 8, SPECTROGRAM + GAP + PEAKS + 26);
}

function clip(pen, width, top, height) {
  pen.beginPath();
  pen.rect(LEFT, top, width - LEFT, height);
  pen.clip();
}
