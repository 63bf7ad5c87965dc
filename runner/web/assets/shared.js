'use strict';
/* What stands behind # never left the browser until now. */
if (location.hash.length > 1) {
  document.getElementById('link').value = location.hash.slice(1);
  document.getElementById('opening').textContent = 'Opening…';
  history.replaceState(null, '', location.pathname);
  document.getElementById('link-form').submit();
}
