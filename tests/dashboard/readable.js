// What keeps somebody from reading or operating the page, as a list of sentences: WCAG 2.2,
// 1.4.3 (contrast), 1.3.1, 3.1.1, 3.3.2 and 4.1.2 (names and roles), as far as a script can tell.
const faults = [];
const name = node => node.tagName.toLowerCase() + (node.id ? '#' + node.id : node.className ? '.' + String(node.className.baseVal ?? node.className).split(' ').join('.') : '');
const seen = node => node.getClientRects().length > 0 && getComputedStyle(node).visibility !== 'hidden';
// A canvas knows every notation of a colour.
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
function ground(node) {
  const layers = [];
  for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
}
function luminance([r, g, b]) {
  const [R, G, B] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * R + 0.7152 * G + 0.0722 * B;
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; (text = walker.nextNode());) {
  const node = text.parentElement;
  if (!text.data.trim() || !seen(node) || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'TITLE', 'OPTION'].includes(node.tagName.toUpperCase())) continue;
  const style = getComputedStyle(node);
  const below = ground(node);
  const [one, other] = [luminance(over(rgba(style.color), below)), luminance(below)].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) faults.push(`${name(node)} "${text.data.trim().slice(0, 30)}" has a contrast of ${ratio.toFixed(2)}`);
}
if (!document.documentElement.lang) faults.push('the page has no language');
if (!document.title) faults.push('the page has no title');
if (document.querySelectorAll('h1').length !== 1) faults.push('there is not one first heading');
for (const node of document.querySelectorAll('input, select, button')) {
  const label = node.labels?.length ? node.labels[0].textContent : '';
  const own = node.tagName === 'BUTTON' ? node.textContent : '';
  if (!(label + own + (node.getAttribute('aria-label') || '')).trim()) faults.push(`${name(node)} has no name`);
}
for (const node of document.querySelectorAll('[role=img], svg')) {
  const named = node.getAttribute('aria-label') || node.closest('[aria-hidden=true]') || node.closest('[role=img][aria-label]');
  if (!named) faults.push(`${name(node)} is a picture without words`);
}
for (const node of document.querySelectorAll('th')) if (!node.scope) faults.push(`${name(node)} heads nothing`);
for (const node of document.querySelectorAll('[aria-labelledby]')) {
  if (!document.getElementById(node.getAttribute('aria-labelledby'))) faults.push(`${name(node)} is labelled by nothing`);
}
const ids = [...document.querySelectorAll('[id]')].map(node => node.id);
for (const id of new Set(ids)) if (ids.filter(other => other === id).length > 1) faults.push(`#${id} is there twice`);
for (const state of document.querySelectorAll('.state')) {
  if (!state.querySelector('svg') || !state.textContent.trim()) faults.push('a state is told by its colour alone');
}
return faults;
