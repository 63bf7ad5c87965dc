'use strict';
/* Plays a call while it is on: the caller on the left, the agent on the right. Nothing is fetched until it is asked for. */
const listen = document.getElementById('listen'), told = document.getElementById('listen-told');
const HEADER_BYTES = 44, FRAME_BYTES = 4;
/* What comes is played so much later: the next piece may be late. What is later than the most is left out. */
const AHEAD_S = 0.3, MOST_AHEAD_S = 1.2;
const REFUSED = {409: 'The call is over.', 503: 'Too many people are listening to calls. Try again later.'};
let leave = null;
const say = (on, text) => { listen.setAttribute('aria-pressed', on); told.textContent = text; };
const player = rate => {
  const context = new AudioContext({sampleRate: rate});
  let next = -1;
  return {
    close: () => context.close(),
    play: bytes => {
      const now = context.currentTime, frames = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      if (next > now + MOST_AHEAD_S) return;
      const buffer = context.createBuffer(2, bytes.byteLength / FRAME_BYTES, rate);
      for (const side of [0, 1]) {
        const samples = buffer.getChannelData(side);
        for (let i = 0; i < samples.length; i++) samples[i] = frames.getInt16(FRAME_BYTES * i + 2 * side, true) / 32768;
      }
      const source = context.createBufferSource();
      source.buffer = buffer; source.connect(context.destination);
      if (next < now) next = now + AHEAD_S;
      source.start(next); next += buffer.duration;
    },
  };
};
/* Gives away whole frames, without the file's header; the rest waits for what comes next. */
const frames = () => {
  let rest = new Uint8Array(0), skip = HEADER_BYTES;
  return bytes => {
    const all = new Uint8Array(rest.length + bytes.length);
    all.set(rest); all.set(bytes, rest.length);
    const from = Math.min(skip, all.length), to = all.length - (all.length - from) % FRAME_BYTES;
    skip -= from; rest = all.slice(to);
    return all.subarray(from, to);
  };
};
const hear = async () => {
  const leaving = new AbortController();
  leave = () => leaving.abort();
  say(true, 'Waiting for sound…');
  const sound = player(Number(listen.dataset.rate)), whole = frames();
  let isHeard = false;
  try {
    const answer = await fetch(listen.dataset.from, {signal: leaving.signal});
    if (!answer.ok || answer.headers.get('Content-Type') !== 'audio/wav') {
      say(false, REFUSED[answer.status] ?? 'You can’t listen any more: load the page again.');
      return;
    }
    for (const reader = answer.body.getReader();;) {
      const {done, value} = await reader.read();
      if (done) break;
      const pcm = whole(value);
      if (!pcm.length) continue;
      sound.play(pcm);
      if (!isHeard) say(true, 'You hear the caller on the left, the agent on the right.');
      isHeard = true;
    }
    say(false, 'The call is over.');
  } catch {
    say(false, leaving.signal.aborted ? '' : 'The connection broke off. Listen in again.');
  } finally {
    leave = null; sound.close();
  }
};
listen.onclick = () => { if (leave) leave(); else hear(); };
