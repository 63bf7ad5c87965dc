const $ = id => document.getElementById(id), root = document.documentElement;
root.classList.add('on');
const keep = (key, value) => { try { if (value === undefined) return localStorage.getItem(key); localStorage.setItem(key, value); } catch { return null; } };
const THEMES = ['auto', 'light', 'dark'];
function theme(name) { if (name === 'auto') delete root.dataset.theme; else root.dataset.theme = name; $('theme-name').textContent = name; keep('theme', name); }
theme(THEMES.includes(keep('theme')) ? keep('theme') : 'auto');
const nextTheme = () => theme(THEMES[(THEMES.indexOf(root.dataset.theme || 'auto') + 1) % 3]);
const help = () => $('help').showModal();
$('theme').onclick = nextTheme; $('keys').onclick = help;
$('keys-on').checked = keep('keys') !== 'off'; $('keys-on').onchange = e => keep('keys', e.target.checked ? 'on' : 'off');
const KEYS = {t: nextTheme, '?': help};
/* Single keys can be switched off (WCAG 2.1.4); those of a focused slider stay. */
addEventListener('keydown', e => {
  const on = e.target, own = on.matches('[role=slider]');
  if (e.ctrlKey || e.metaKey || e.altKey || $('help').open || on.matches('select,textarea,input:not([type=radio])')) return;
  if (on.matches('[type=radio]') && e.key.startsWith('Arrow') || e.key === ' ' && on.matches('button,a,summary,input')) return;
  if (KEYS[e.key] && (own || e.key === '?' || $('keys-on').checked) && KEYS[e.key](e, own) !== false) e.preventDefault();
});
