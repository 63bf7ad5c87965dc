'use strict';
SwaggerUIBundle({url: '/openapi.json', dom_id: '#api', deepLinking: true, docExpansion: 'none', defaultModelsExpandDepth: 0, validatorUrl: null, tryItOutEnabled: true});
/* Swagger UI draws this page again and again; what it draws lacks something for whoever can't see it, or has no mouse. */
const each = (selector, change) => { for (const el of document.querySelectorAll(`#api ${selector}`)) change(el); };
const give = (name, value) => el => { if (!el.hasAttribute(name)) el.setAttribute(name, value); };
const mend = () => {
  /* The main part begins below these two. */
  each('.information-container', give('role', 'banner'));
  each('.scheme-container', give('role', 'region'));
  each('.scheme-container', give('aria-label', 'Key'));
  /* Below the title there is no second level. */
  for (const level of [3, 4, 5, 6]) each(`h${level}`, give('aria-level', level - 1));
  /* A link within a button can't be reached; the button does the same. */
  each('button a[href]', el => el.removeAttribute('href'));
  /* A table is one, and no part of the page of its own. */
  each('table[role=region]', el => el.removeAttribute('role'));
  each('textarea.body-param__text', give('aria-label', 'Body'));
  each('pre.microlight', give('tabindex', '0'));
};
new MutationObserver(mend).observe(document.getElementById('api'), {childList: true, subtree: true});
