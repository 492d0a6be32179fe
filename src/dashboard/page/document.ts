/** The document around the page; everything in it is made by main.ts, by DOM calls only. */

export const DOCUMENT = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>HyperTurtle</title>
<link rel="icon" href="/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/style.css">
<script type="module" src="/page/main.js"></script>
</head>
<body>
<div id="app"><noscript>This page shows live figures and needs JavaScript.</noscript></div>
</body>
</html>
`;

/** Three levels, one within another. */
export const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="2" y="2" width="28" height="28" rx="7" fill="#0b5cad"/><rect x="8" y="8" width="16" height="16" rx="4" fill="#7fc4f2"/><rect x="13" y="13" width="6" height="6" rx="1.5" fill="#0b2c50"/></svg>
`;
