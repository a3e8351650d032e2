// From log probabilities [frames][symbols] to words with times. A placed symbol is {symbol, first, end, log_p}: its column, its
// frames first <= frame < end, and ln of its highest probability in them. Column 0 is the blank.

/* Return the best column of each frame, without repeats and blanks, as placed symbols. */
export function decodeGreedily(log_probs, columns) {
  const symbols = [];
  let before = 0;
  for (let frame = 0; frame * columns < log_probs.length; frame++) {
    const best = bestColumn(log_probs, frame * columns, columns, 0);
    const log_p = log_probs[frame * columns + best];
    if (best && best === before) {
      const last = symbols.at(-1);
      last.end = frame + 1;
      last.log_p = Math.max(last.log_p, log_p);
    } else if (best) symbols.push({symbol: best, first: frame, end: frame + 1, log_p});
    before = best;
  }
  return symbols;
}

/* Return the column with the greatest value, from column `first` on; of equal ones, the first. */
export function bestColumn(values, start, columns, first) {
  let best = first;
  for (let column = first + 1; column < columns; column++)
    if (values[start + column] > values[start + best]) best = column;
  return best;
}

/* Group placed symbols into words, {text, start_s, end_s, confidence}: at spaces, or one a symbol if there is no space. */
export function groupWords(symbols, names, frame_s) {
  const groups = names.includes(" ") ? splitAtSpaces(symbols, names) : symbols.map(symbol => [symbol]);
  return groups.map(group => ({
    text: group.map(({symbol}) => names[symbol]).join(""),
    start_s: group[0].first * frame_s,
    end_s: group.at(-1).end * frame_s,
    confidence: Math.exp(group.reduce((sum, {log_p}) => sum + log_p, 0) / group.length),
  }));
}

function splitAtSpaces(symbols, names) {
  const groups = [[]];
  for (const symbol of symbols)
    if (names[symbol.symbol] === " ") groups.push([]);
    else groups.at(-1).push(symbol);
  return groups.filter(group => group.length);
}
