'use strict';
/* How long something is on, counted by this machine from when the server says it began. */
const elapsed = () => {
  for (const el of document.querySelectorAll('[data-since]')) {
    const s = Math.max(0, Math.round((Date.now() - Date.parse(el.dataset.since)) / 1000));
    el.textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`;
  }
};
elapsed(); setInterval(elapsed, 1000);
document.addEventListener('htmx:afterSwap', elapsed);
/* What is said last stays in sight, unless somebody reads further up. */
const log = document.getElementById('follow');
if (log) new MutationObserver(() => { if (innerHeight + scrollY > document.body.scrollHeight - 300) log.lastElementChild?.scrollIntoView({block: 'nearest'}); }).observe(log, {childList: true});
/* A connection that the browser takes up again goes on where it was; a new one tells everything once more. */
if (log) document.addEventListener('htmx:sseOpen', ({detail: {source}}) => { if (log.source !== source) log.replaceChildren(); log.source = source; });
/* Two results can be compared, no more. */
const compare = () => {
  const ticked = document.querySelectorAll('[name=result]:checked').length, button = document.getElementById('compare');
  if (button) button.disabled = ticked !== 2;
};
document.addEventListener('change', compare); document.addEventListener('htmx:afterSwap', compare); compare();
/* Of two ways to a room only the fields of the one that is chosen are shown. */
const ways = () => {
  for (const el of document.querySelectorAll('[data-way]')) {
    const on = document.querySelector('[name=way]:checked')?.value === el.dataset.way;
    el.hidden = !on; for (const field of el.querySelectorAll('input,textarea')) field.disabled = !on;
  }
};
document.addEventListener('change', ways); ways();
/* Likewise what belongs to one choice of a list. */
const choices = () => {
  for (const el of document.querySelectorAll('[data-choice]')) {
    const [list, value] = el.dataset.choice.split(' ');
    el.hidden = document.getElementById(list).value !== value;
    for (const field of el.querySelectorAll('input')) field.disabled = el.hidden;
  }
};
document.addEventListener('change', choices); choices();
for (const box of document.querySelectorAll('[data-filters]')) box.addEventListener('input', () => {
  for (const el of document.querySelectorAll(box.dataset.filters)) el.hidden = !el.textContent.toLowerCase().includes(box.value.toLowerCase());
});
/* A second click sends nothing again; whoever comes back to the page, changes something or waits may send once more. */
const sent = new WeakSet();
document.addEventListener('submit', event => {
  const form = event.target;
  if (form.method !== 'post') return;
  if (sent.has(form)) event.preventDefault(); else { sent.add(form); setTimeout(() => sent.delete(form), 10000); }
});
document.addEventListener('input', event => sent.delete(event.target.form));
addEventListener('pageshow', event => { if (event.persisted) for (const form of document.forms) sent.delete(form); });
