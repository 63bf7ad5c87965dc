const D = JSON.parse($('data').textContent), A = $('audio');
const put = text => { $('status').textContent = text; };
$('copy')?.addEventListener('click', async () => {
  try { await navigator.clipboard.writeText(D.text); } catch {
    const area = document.createElement('textarea'); area.value = D.text; document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  }
  $('copy').textContent = 'Copied'; put('Copied');
});
if (A) {
  const rows = [...document.querySelectorAll('.row')].map(el => ({el, from: +el.dataset.t, to: +el.dataset.e, who: el.dataset.who, words: el.querySelector('.said').textContent}));
  const two = n => String(n).padStart(2, '0');
  const clock = s => { const t = Math.round(s * 10); return `${Math.floor(t / 600)}:${two(Math.floor(t % 600 / 10))}.${t % 10}`; };
  const clamp = t => Math.max(0, Math.min(D.length, t));
  const slider = $('slider'), inner = $('inner'), scroll = $('scroll');
  let pos = 0, zoomed = 1, graph = null;

  function show(t) {
    pos = clamp(t);
    $('playhead').style.left = pos / D.length * 100 + '%';
    $('time').textContent = clock(pos);
    const now = rows.filter(r => pos >= r.from - .05 && pos <= r.to + .15).pop();
    for (const r of rows) r === now ? r.el.setAttribute('aria-current', 'true') : r.el.removeAttribute('aria-current');
    $('now').textContent = '';
    if (now) { const b = document.createElement('b'); b.textContent = now.who + ' '; $('now').append(b, now.words); }
    slider.setAttribute('aria-valuenow', pos.toFixed(1));
    slider.setAttribute('aria-valuetext', `${pos.toFixed(1)} seconds, ${now ? now.who + ': ' + now.words.slice(0, 200) : 'silence'}`);
  }
  const tick = () => { show(A.currentTime); follow(); if (!A.paused) requestAnimationFrame(tick); };
  function seek(t, play) { show(t); A.currentTime = pos; follow(); if (play) A.play(); }
  const toggle = () => A.paused ? A.play() : A.pause();
  const button = playing => { $('play').setAttribute('aria-label', playing ? 'Pause' : 'Play'); $('play-icon').setAttribute('href', playing ? '#i-pause' : '#i-play'); };
  A.onplay = () => { button(true); tick(); };
  A.onpause = () => { button(false); show(A.currentTime); };
  A.onerror = () => put($('now').textContent = 'This browser can’t play the sound. recording.wav is beside this file.');
  $('play').onclick = toggle; $('speed').onchange = e => { A.playbackRate = +e.target.value; };

  function sides() {
    const context = new AudioContext(), split = context.createChannelSplitter(2);
    context.createMediaElementSource(A).connect(split);
    const gains = [0, 1].map(i => { const g = context.createGain(); g.channelCount = 1; split.connect(g, i); g.connect(context.destination); return g; });
    return {context, gains};
  }
  for (const radio of document.querySelectorAll('[name=mix]')) radio.onchange = () => {
    graph ??= sides(); graph.context.resume();
    graph.gains[0].gain.value = radio.value === 'a' ? 0 : 1; graph.gains[1].gain.value = radio.value === 'c' ? 0 : 1;
  };

  const timeAt = e => { const b = inner.getBoundingClientRect(); return clamp((e.clientX - b.left) / b.width * D.length); };
  let dragged = false;
  slider.onpointerdown = e => { if (e.pointerType === 'mouse' && e.button === 0) { dragged = true; slider.setPointerCapture(e.pointerId); seek(timeAt(e)); } };
  slider.onpointermove = e => { if (dragged) seek(timeAt(e)); };
  slider.onpointerup = () => { if (dragged) A.play(); dragged = false; };
  slider.onclick = e => { if (e.pointerType !== 'mouse') seek(timeAt(e), true); };

  function frame() {
    $('mini').hidden = zoomed <= 1.01;
    const width = inner.clientWidth || 1;
    $('window').style.left = scroll.scrollLeft / width * 100 + '%'; $('window').style.width = scroll.clientWidth / width * 100 + '%';
  }
  /* The playhead stays in sight while the call plays. */
  function follow() {
    const x = pos / D.length * inner.clientWidth, from = scroll.scrollLeft;
    if (zoomed > 1 && (x < from || x > from + scroll.clientWidth)) scroll.scrollLeft = x - scroll.clientWidth * .2;
  }
  const most = () => Math.max(16, D.length / 4);
  function zoom(n, at = pos, part = .4) {
    zoomed = Math.max(1, Math.min(most(), n)); inner.style.width = zoomed * 100 + '%';
    scroll.scrollLeft = at / D.length * inner.clientWidth - scroll.clientWidth * part; frame();
  }
  scroll.addEventListener('scroll', frame, {passive: true}); addEventListener('resize', frame);
  $('mini').onclick = e => { const b = $('mini').getBoundingClientRect(); scroll.scrollLeft = (e.clientX - b.left) / b.width * inner.clientWidth - scroll.clientWidth / 2; };
  const failing = () => { if (D.to) zoom(D.length / (D.to - D.from + 1), D.from, .02); };
  const toFailing = play => { failing(); seek(D.hear, play); };
  $('zoom-in').onclick = () => zoom(zoomed * 1.6); $('zoom-out').onclick = () => zoom(zoomed / 1.6); $('zoom-all').onclick = () => zoom(1);
  if ($('zoom-failing')) $('zoom-failing').onclick = () => toFailing(false);
  if ($('hear')) $('hear').onclick = () => seek(D.hear, true);

  document.addEventListener('click', e => {
    const at = e.target.closest('.at');
    if (!at) return;
    const t = +at.dataset.t; seek(t - .15, true);
    try { history.replaceState(null, '', '#t=' + t.toFixed(1)); } catch { /* not in a sandbox */ }
  });
  const line = step => {
    const ahead = rows.findIndex(r => r.from > pos + .2), n = step > 0 ? (ahead < 0 ? rows.length - 1 : ahead) : Math.max(0, (ahead < 0 ? rows.length : ahead) - 2);
    if (rows[n]) { seek(rows[n].from - .15, !A.paused); rows[n].el.scrollIntoView({block: 'nearest'}); }
  };
  const by = sign => e => seek(pos + sign * (e.shiftKey ? .1 : 1));
  Object.assign(KEYS, {
    ArrowRight: by(1), ArrowLeft: by(-1), Home: (e, own) => own && seek(0), End: (e, own) => own && seek(D.length), ' ': toggle,
    j: () => line(1), k: () => line(-1), f: () => toFailing(false), '+': () => zoom(zoomed * 1.6), '=': () => zoom(zoomed * 1.6), '-': () => zoom(zoomed / 1.6), 0: () => zoom(1)});

  function go() {
    const linked = /^#t=([\d.]+)$/.exec(location.hash);
    if (linked) seek(+linked[1]);
    return linked;
  }
  if (D.to && (scroll.clientWidth < 700 || D.length > 60)) failing();
  const first = () => { if (!go()) seek(D.hear); };
  show(D.hear);
  if (A.readyState) first(); else A.addEventListener('loadedmetadata', first, {once: true});
  addEventListener('hashchange', go);
}
