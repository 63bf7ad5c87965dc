const links = [...document.querySelectorAll('.cell.fail, .cell.unsure')].filter(a => a.href);
const next = step => { const at = links.indexOf(document.activeElement); links[(at + step + links.length) % links.length]?.focus(); };
KEYS.f = KEYS.j = () => next(1); KEYS.k = () => next(-1);
