'use strict';
// The dashboard: asks /stats, /series, /connections, /events and the history of a backend of the
// endpoint that served it, and nothing else.

const $ = id => document.getElementById(id);
const STATES = ['down', 'ejected', 'starting', 'draining', 'maintenance', 'removed', 'up'];
// Above so many backends /stats is asked for less often, and rows are shown in portions.
const MANY = 150;
const PORTION = 100;
const WINDOW_MS = 15 * 60 * 1000;

const now = {
  stats: null, before: null, at: 0, series: null, details: {}, events: [], shown: {}, sort: {},
  open: new Set(), detail: null, seen: new Set(), token: sessionStorage.getItem('isobar-token'), lost: 0,
};

// ---- small tools

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child != null));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
function short(n, unit) {
  if (n == null || Number.isNaN(n)) return '–';
  const step = unit === 'B' ? 1024 : 1000;
  const names = unit === 'B' ? ['B', 'KiB', 'MiB', 'GiB', 'TiB'] : ['', 'k', 'M', 'G'];
  let i = 0;
  while (Math.abs(n) >= step && i < names.length - 1) { n /= step; i += 1; }
  const digits = n >= 100 || Number.isInteger(n) ? 0 : n >= 10 ? 1 : 2;
  return n.toFixed(digits) + (names[i] ? '\u202f' + names[i] : '');
}
const rate = (n, unit) => n == null ? '–' : short(Math.round(n * 100) / 100, unit) + '/s';
function millis(seconds) {
  if (!seconds) return '–';
  const ms = seconds * 1000;
  return (ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0)) + '\u202fms';
}
function span(seconds) {
  seconds = Math.max(0, Math.floor(seconds));
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = parts.findIndex(([n]) => seconds >= n);
  if (first < 0) return '0\u202fs';
  const [n, unit] = parts[first];
  const next = parts[first + 1];
  const rest = next && Math.floor((seconds % n) / next[0]);
  return Math.floor(seconds / n) + '\u202f' + unit + (rest ? ' ' + rest + '\u202f' + next[1] : '');
}
const ago = at => at ? span((Date.now() - Date.parse(at)) / 1000) : '–';
const clock = at => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });

// A shape for each state, so that nobody has to tell colours apart.
const SHAPES = {
  up: ['circle', { cx: 6, cy: 6, r: 5, fill: 'currentColor' }],
  down: ['path', { d: 'M2 2 10 10M10 2 2 10', stroke: 'currentColor', 'stroke-width': 2.6, fill: 'none' }],
  ejected: ['path', { d: 'M6 1 11.4 11H.6Z', fill: 'currentColor' }],
  draining: ['path', { d: 'M6 1a5 5 0 0 0 0 10Z', fill: 'currentColor' }],
  maintenance: ['rect', { x: 2, y: 2, width: 8, height: 8, fill: 'none', stroke: 'currentColor', 'stroke-width': 2 }],
  starting: ['circle', { cx: 6, cy: 6, r: 4, fill: 'none', stroke: 'currentColor', 'stroke-width': 2 }],
  removed: ['path', { d: 'M1 6H11', stroke: 'currentColor', 'stroke-width': 2.4 }],
};
function glyph(state) {
  const [tag, attributes] = SHAPES[state] || SHAPES.starting;
  return s('svg', { viewBox: '0 0 12 12', 'aria-hidden': 'true' }, s(tag, attributes));
}

// ---- asking

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (now.token) headers.Authorization = 'Bearer ' + now.token;
  const response = await fetch(path, { ...options, headers, cache: 'no-store' });
  if (response.status === 401) {
    await askToken();
    return ask(path, options);
  }
  return response;
}
async function json(path, options) {
  const response = await ask(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error || response.statusText);
  return body;
}

let asking = null;
function askToken() {
  asking ||= new Promise(resolve => {
    const dialog = $('token-dialog');
    if (now.token) text($('token-why'), 'The token was not accepted.');
    dialog.onclose = () => {
      asking = null;
      if (dialog.returnValue === 'yes') {
        now.token = $('token').value;
        sessionStorage.setItem('isobar-token', now.token);
      }
      $('token').value = '';
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

// ---- statistics

async function poll() {
  let wait = 1000;
  try {
    const stats = await json('stats');
    now.before = now.stats;
    now.stats = stats;
    now.at = Date.now();
    now.lost = 0;
    if (count(stats) > MANY) wait = 5000;
    draw();
  } catch (error) {
    now.lost += 1;
    if (now.lost > 1) say('lost', 'no answer since ' + (now.at ? clock(now.at) : 'the start'));
  }
  setTimeout(poll, document.hidden ? 5000 : wait);
}
const count = stats =>
  Object.values(stats.pools).reduce((n, pool) => n + Object.keys(pool.backends).length, 0);

function say(kind, words) {
  $('live').className = kind;
  text($('live-text'), words);
}

// What a total has grown by in a second, from one answer to the next.
function perSecond(get) {
  const { stats, before } = now;
  if (!before || before.pid !== stats.pid) return null;
  const [new_, old] = [get(stats), get(before)];
  const seconds = stats.uptime_seconds - before.uptime_seconds;
  return old == null || seconds <= 0 ? null : Math.max(0, (new_ - old) / seconds);
}
const backendRate = (pool, name, get) =>
  perSecond(stats => { const b = stats.pools[pool]?.backends[name]; return b && get(b); });

function draw() {
  const stats = now.stats;
  const config = stats.config;
  text($('about'), `${stats.version} · process ${stats.pid} · up ${span(stats.uptime_seconds)} · configuration ${config.generation}`);
  say('live', 'live');
  const pools = Object.entries(stats.pools);
  const alarms = pools
    .filter(([, pool]) => Object.keys(pool.backends).length && !usable(pool) && !pool.paused)
    .map(([name]) => `Pool ${name} has no usable backend.`);
  if (!config.last_reload.ok) alarms.push(`The last reload was refused: ${config.last_reload.error}`);
  $('alarm').hidden = !alarms.length;
  text($('alarm'), alarms.join(' '));
  drawNumbers(stats, pools);
  drawFlow(stats);
  drawPools(pools);
  drawBackend();
}
const usable = pool => Object.values(pool.backends).filter(b => b.state === 'up' && b.weight > 0).length;
const sum = (list, get) => list.reduce((n, item) => n + get(item), 0);

function drawNumbers(stats, pools) {
  const listeners = s => Object.values(s.listeners);
  const bad = pools.reduce((n, [, p]) => n + Object.values(p.backends).filter(b => ['down', 'ejected'].includes(b.state)).length, 0);
  const held = sum(pools, ([, p]) => p.held);
  const numbers = [
    ['Open connections', short(stats.connections.active)],
    ['New connections', rate(perSecond(s => s.connections.total))],
    ['To backends', rate(perSecond(s => sum(listeners(s), l => l.bytes_in)), 'B')],
    ['To clients', rate(perSecond(s => sum(listeners(s), l => l.bytes_out)), 'B')],
    ['Backends usable', `${sum(pools, ([, p]) => usable(p))} of ${count(stats)}`],
    ['Down or ejected', String(bad), bad > 0],
    ['Clients held', short(held), held > 0],
  ];
  const list = $('numbers');
  if (list.children.length !== numbers.length) {
    list.replaceChildren(...numbers.map(() => h('div', {}, h('dt'), h('dd'))));
  }
  numbers.forEach(([name, value, isBad], i) => {
    const box = list.children[i];
    box.className = isBad ? 'bad' : '';
    text(box.firstChild, name);
    text(box.lastChild, value);
  });
}

function drawFlow(stats) {
  const ways = Object.entries(stats.listeners).map(([name, listener]) => {
    const flow = perSecond(s => s.listeners[name]?.connections.total);
    const pool = stats.pools[listener.pool];
    const backends = pool ? Object.entries(pool.backends) : [];
    const states = STATES.map(state => [state, backends.filter(([, b]) => b.state === state).length]).filter(([, n]) => n);
    return h('div', { class: 'way card' },
      h('div', { class: 'from' }, h('b', {}, name), h('small', {}, listener.addresses.join(', ') || 'closed'),
        listener.accepting ? null : h('small', {}, 'not accepting')),
      h('div', { class: 'pipe' + (flow ? '' : ' still') }, rate(flow)),
      h('div', { class: 'to' }, h('b', {}, listener.pool || 'by routes'),
        pool && h('small', {}, `${pool.balance}, ${short(listener.connections.active)} open`)),
      h('div', { class: 'cells', role: 'img', 'aria-label': states.map(([state, n]) => `${n} ${state}`).join(', ') || 'no backend' },
        // Those in trouble first where not all are shown.
        (backends.length > 400 ? [...backends].sort(([, a], [, b]) => STATES.indexOf(a.state) - STATES.indexOf(b.state)) : backends).slice(0, 400).map(([name, b]) => {
          const cell = glyph(b.state);
          cell.classList.add('g-' + b.state);
          cell.prepend(s('title', {}, `${name}: ${b.state}`));
          return cell;
        }), backends.length > 400 ? h('small', {}, `and ${backends.length - 400} more`) : null));
  });
  $('flow-body').replaceChildren(...ways);
}

// ---- pools

const COLUMNS = [
  ['Backend', '', (n) => n],
  ['State', '', (n, b) => STATES.indexOf(b.state)],
  ['Since', 'n', (n, b) => -Date.parse(b.health.since)],
  ['Weight', 'n', (n, b) => b.effective_weight],
  ['Active', 'n', (n, b) => b.connections.active],
  ['New', 'n', (n, b, p) => backendRate(p, n, b => b.connections.total) || 0],
  ['In', 'n', (n, b, p) => backendRate(p, n, b => b.bytes_in) || 0],
  ['Out', 'n', (n, b, p) => backendRate(p, n, b => b.bytes_out) || 0],
  ['Connect p50', 'n', (n, b) => b.connect_seconds.p50],
  ['p99', 'n', (n, b) => b.connect_seconds.p99],
  ['Failed', 'n', (n, b) => b.connections.failed],
  ['15 minutes', '', null],
  ['Change', '', null],
];

function drawPools(pools) {
  const names = new Set(pools.map(([name]) => name));
  for (const [name, view] of Object.entries(now.shown)) {
    if (!names.has(name)) { view.node.remove(); delete now.shown[name]; }
  }
  for (const [name, pool] of pools) {
    const view = now.shown[name] ||= poolView(name);
    view.draw(pool);
  }
}

function poolView(pool) {
  const about = h('p'), badge = h('span', { class: 'badge', hidden: true });
  const body = h('tbody'), more = h('p', { class: 'more', hidden: true });
  const title = 'pool-' + pool;
  const heads = COLUMNS.map(([name, kind, key], i) => h('th', { scope: 'col', class: kind },
    key ? h('button', { type: 'button', onclick: () => sortBy(i) }, name) : name));
  const node = h('article', { class: 'pool card', 'aria-labelledby': title },
    h('header', {}, h('h3', { id: title }, pool), badge, about),
    h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-labelledby': title }, h('table', {}, h('thead', {}, h('tr', {}, heads)), body)), more);
  $('pool-list').append(node);
  const rows = new Map();
  let portion = PORTION, sort = null, last = null;
  function sortBy(i) {
    sort = sort && sort.i === i ? { i, up: !sort.up } : { i, up: i < 3 };
    heads.forEach((head, n) => n === i
      ? head.setAttribute('aria-sort', sort.up ? 'ascending' : 'descending') : head.removeAttribute('aria-sort'));
    if (last) draw(last);
  }
  function order(list) {
    // Trouble first where nobody wants another order; else as the file has it.
    if (!sort) {
      const rank = b => ['down', 'ejected'].includes(b.state) ? 0 : 1;
      return list.map((item, i) => [item, i]).sort((a, b) => rank(a[0][1]) - rank(b[0][1]) || a[1] - b[1]).map(([item]) => item);
    }
    const key = COLUMNS[sort.i][2];
    const of = ([name, b]) => key(name, b, pool);
    const sign = sort.up ? 1 : -1;
    return list.map(item => [of(item), item])
      .sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0)).map(([, item]) => item);
  }
  function draw(of) {
    last = of;
    const all = Object.entries(of.backends);
    const find = $('find').value.trim().toLowerCase();
    const found = all.filter(([name, b]) => !find || [pool + '/' + name, b.address, b.state].some(t => String(t).toLowerCase().includes(find)));
    node.hidden = find !== '' && !found.length;
    text(about, `${of.balance} · ${usable(of)} of ${all.length} usable · ${short(of.connections.active)} open · ${rate(perSecond(s => s.pools[pool]?.connections.total))} new${of.held ? ` · ${of.held} held` : ''}`);
    badge.hidden = !of.paused && !of.rebalancing;
    text(badge, of.paused ? (of.paused_until ? `paused until ${clock(of.paused_until)}` : 'paused') : 'rebalancing');
    const shown = order(found).slice(0, portion);
    const keep = new Set(shown.map(([name]) => name));
    for (const [name, row] of rows) if (!keep.has(name)) { row.node.remove(); rows.delete(name); }
    shown.forEach(([name, b], i) => {
      let row = rows.get(name);
      if (!row) rows.set(name, row = backendRow(pool, name));
      row.draw(b);
      if (body.children[i] !== row.node) body.insertBefore(row.node, body.children[i] || null);
    });
    more.hidden = found.length <= shown.length;
    if (!more.hidden) more.replaceChildren(`${shown.length} of ${found.length} are shown. `,
      h('button', { type: 'button', onclick: () => { portion += PORTION; draw(last); } }, 'Show more'));
  }
  return { node, draw };
}

function backendRow(pool, name) {
  const cell = (label, kind, ...children) => h('td', { class: kind, 'data-label': label }, ...children);
  const where = h('span', { class: 'where' }), chip = h('span'), cause = h('span', { class: 'cause' });
  const values = Object.fromEntries(COLUMNS.slice(2, 11).map(([label, kind]) => [label, cell(label, kind)]));
  const spark = cell('15 minutes', 'spark');
  const act = h('select', { 'aria-label': `Change ${pool}/${name}`, onchange: event => {
    const what = event.target.value;
    event.target.value = '';
    if (what) change(pool, name, what);
  } }, [['', 'Change…'], ['ready', 'Ready'], ['drain', 'Drain'], ['maintenance', 'Maintenance'], ['weight', 'Weight…']]
    .map(([value, label]) => h('option', { value }, label)));
  const node = h('tr', { 'data-backend': pool + '/' + name }, h('td', { class: 'who', 'data-label': 'Backend' },
      h('button', { type: 'button', class: 'name', 'aria-haspopup': 'dialog', title: 'Latency, quality and history', onclick: () => openBackend(pool, name) }, name), where),
    cell('State', 'what', chip, cause), Object.values(values), spark, cell('Change', 'act', act));
  let state = null, track = null;
  function draw(b) {
    text(where, b.address === name ? (b.backup ? 'backup' : '') : b.address + (b.backup ? ' · backup' : ''));
    if (state !== b.state) {
      state = b.state;
      chip.className = 'state s-' + state;
      chip.replaceChildren(glyph(state), state);
      node.className = ['down', 'ejected'].includes(state) ? 'trouble' : '';
    }
    act.disabled = now.stats.config.read_only === true;
    act.title = act.disabled ? 'This endpoint is read only' : '';
    const last = b.health.history[b.health.history.length - 1];
    const why = state === 'up' || !last ? '' : b.leaving?.until ? `until ${clock(b.leaving.until)}` : last.cause;
    text(cause, why);
    cause.title = why;
    const { connections: c } = b;
    text(values.Since, ago(b.health.since));
    text(values.Weight, b.effective_weight === b.weight ? String(b.weight) : `${short(b.effective_weight)} of ${b.weight}`);
    text(values.Active, short(c.active) + (c.limit ? ' / ' + short(c.limit) : ''));
    text(values.New, rate(backendRate(pool, name, b => b.connections.total)));
    text(values.In, rate(backendRate(pool, name, b => b.bytes_in), 'B'));
    text(values.Out, rate(backendRate(pool, name, b => b.bytes_out), 'B'));
    text(values['Connect p50'], millis(b.connect_seconds.p50));
    text(values.p99, millis(b.connect_seconds.p99));
    text(values.Failed, short(c.failed));
    const series = now.details[pool]?.pools[pool]?.backends?.[name];
    if (series && series !== track) {
      track = series;
      spark.replaceChildren(line(series.connections, `New connections of ${name} in 15 minutes`, { marks: false }));
    }
  }
  return { node, draw };
}

// ---- one backend

const moment = at => new Date(at).toLocaleString([], { dateStyle: 'short', timeStyle: 'medium', hour12: false });
const MEASURES = [
  ['Connect', b => b.connect_seconds, millis],
  ['First byte', b => b.first_byte_seconds, millis],
  ['Round trip', b => b.rtt_seconds, millis],
  ['Delivery rate', b => b.delivery_rate, n => n ? rate(Math.round(n), 'B') : '–'],
];

function openBackend(pool, name) {
  now.detail = { pool, name, known: null };
  text($('backend-title'), `${pool}/${name}`);
  text($('backend-note'), '');
  $('backend-history').hidden = true;
  drawBackend();
  $('backend-dialog').showModal();
}
$('backend-dialog').addEventListener('close', () => { now.detail = null; });

function drawBackend() {
  const of = now.detail;
  if (!of) return;
  const b = now.stats.pools[of.pool]?.backends[of.name];
  if (!b) { text($('backend-state'), 'It is gone.'); return; }
  const last = b.health.last_at ? `; its last check ${b.health.last_ok ? 'passed' : `failed: ${b.health.last_error}`}` : '';
  text($('backend-state'), `${b.address} is ${b.state} for ${ago(b.health.since)}${last}.`);
  $('backend-quality').replaceChildren(...MEASURES.map(([name, get, unit]) => {
    const m = get(b);
    return h('tr', {}, h('th', { scope: 'row' }, name),
      [m?.p50, m?.p90, m?.p99, m?.max].map(value => h('td', { class: 'n' }, unit(value))));
  }));
  const again = b.retransmitted;
  text($('backend-retransmitted'), !again ? 'The kernel tells nothing of what was sent again.'
    : `Sent again in the last 60 s: ${again.share == null ? 'nothing was sent' : (again.share * 100).toFixed(2) + '\u202f%'}; in all ${short(again.retransmitted_bytes, 'B')} of ${short(again.sent_bytes, 'B')}, of connections older than a second.`);
  if (of.known !== b.health.transitions) drawHistory(of, b.health.transitions);
}

async function drawHistory(of, known) {
  of.known = known;
  try {
    const answer = await json(`pools/${encodeURIComponent(of.pool)}/backends/${encodeURIComponent(of.name)}/history`);
    if (now.detail !== of) return;
    const all = answer.history.slice().reverse();
    text($('backend-note'), all.length ? `${answer.transitions} changes of state since the start${answer.transitions > all.length ? `, the last ${all.length} are shown` : ''}, newest first.` : 'No change of state so far.');
    $('backend-history').hidden = !all.length;
    $('backend-history').tBodies[0].replaceChildren(...all.map(change => h('tr', {},
      h('td', {}, h('time', { datetime: change.at }, moment(change.at))), h('td', {}, change.from), h('td', {}, change.to),
      h('td', { class: 'why' }, change.cause), h('td', { class: 'n' }, millis(change.check_seconds)), h('td', {}, change.by))));
  } catch (error) {
    of.known = null;
    if (now.detail === of) text($('backend-note'), error.message);
  }
}

// ---- charts

// A line over the last 15 minutes; x is time, right now at the right.
function line(values, label, { marks = true } = {}) {
  const width = 180, height = 40;
  const points = values.slice(-width);
  const top = Math.max(1, ...points.filter(v => v != null));
  const x = i => width - points.length + i + 0.5;
  const y = v => height - (v / top) * (height - 3) - 1;
  let path = '', area = '', open = false;
  points.forEach((v, i) => {
    if (v == null) { if (open) area += `L${x(i - 1)} ${height}Z`; open = false; return; }
    path += (open ? 'L' : 'M') + x(i) + ' ' + y(v).toFixed(2);
    area += open ? `L${x(i)} ${y(v).toFixed(2)}` : `M${x(i)} ${height}L${x(i)} ${y(v).toFixed(2)}`;
    open = true;
  });
  if (open) area += `L${x(points.length - 1)} ${height}Z`;
  const lines = marks ? now.events.filter(isMark).map(event => {
    const at = width - (Date.now() - Date.parse(event.data.timestamp)) / WINDOW_MS * width;
    return at < 0 ? null : s('line', { class: 'mark' + (isBad(event) ? ' bad' : ''), x1: at, x2: at, y1: 0, y2: height }, s('title', {}, clock(event.data.timestamp) + ' ' + words(event)));
  }) : [];
  return s('svg', { class: marks ? 'chart' : 'line', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    s('path', { class: 'area', d: area }), s('path', { class: 'trace', d: path }),
    s('line', { class: 'axis', x1: 0, x2: width, y1: height, y2: height }), lines);
}

function drawCharts() {
  const pools = Object.values(now.series.pools);
  const step = now.series.step_seconds;
  const total = get => {
    const lists = pools.map(get);
    return Array.from({ length: now.series.points }, (_, i) => {
      const values = lists.map(list => list[i]).filter(v => v != null);
      return values.length ? values.reduce((a, b) => a + b, 0) : null;
    });
  };
  const each = get => total(get).map(v => v == null ? null : v / step);
  const charts = [
    ['New connections', each(p => p.connections), v => rate(v)],
    ['Open connections', total(p => p.active), v => short(v)],
    ['Payload', each(p => p.bytes_in.map((v, i) => v == null ? null : v + p.bytes_out[i])), v => rate(v, 'B')],
    ['Clients held', total(p => p.held), v => short(v)],
  ];
  $('time-charts').replaceChildren(...charts.map(([name, values, unit]) => {
    const there = values.filter(v => v != null);
    const most = there.length ? Math.max(...there) : null;
    const last = there.length ? there[there.length - 1] : null;
    return h('figure', { class: 'card' }, h('figcaption', {}, h('b', {}, name), h('span', {}, `${unit(last)}, most ${unit(most)}`)),
      line(values, `${name}: now ${unit(last)}, at most ${unit(most)} in the last 15 minutes`),
      h('div', { class: 'ticks', 'aria-hidden': 'true' }, h('span', {}, '15 min ago'), h('span', {}, '10'), h('span', {}, '5'), h('span', {}, 'now')));
  }));
}

async function series() {
  try {
    now.series = await json('series?minutes=15&backends=false');
    drawCharts();
    for (const [pool, view] of Object.entries(now.shown)) {
      const many = now.stats && Object.keys(now.stats.pools[pool]?.backends || {}).length > MANY;
      const age = Date.now() - (now.details[pool]?.at || 0);
      if (!document.hidden && onScreen(view.node) && age > (many ? 30000 : 4000)) {
        now.details[pool] = { ...await json('series?minutes=15&pool=' + encodeURIComponent(pool)), at: Date.now() };
      }
    }
  } catch { /* Whether anybody answers is for /stats to tell. */ }
  setTimeout(series, 5000);
}
function onScreen(node) {
  const box = node.getBoundingClientRect();
  return !node.hidden && box.bottom > -400 && box.top < innerHeight + 400;
}

// ---- events

const isMark = ({ kind, data }) => kind !== 'process' && !(kind === 'state' && data.from === 'starting');
const isBad = ({ data }) => ['down', 'ejected'].includes(data.state) || data.level === 'error';

function words({ kind, data }) {
  if (kind === 'state') return `${data.pool}/${data.backend} is ${data.state}: ${data.cause}`;
  if (kind === 'change') {
    const of = [data.pool, data.backend].filter(Boolean).join('/');
    return `${data.what}${of ? ' ' + of : ''}: ${data.before} → ${data.after}, by ${data.by}`;
  }
  const { timestamp, level, target, message, ...rest } = data;
  const more = Object.entries(rest).map(([key, value]) => `${key} ${value}`).join(', ');
  return message + (more ? ': ' + more : '');
}

function note(event) {
  if (now.seen.has(event.id)) return;
  now.seen.add(event.id);
  now.events.push(event);
  if (now.events.length > 512) now.events.splice(0, 256);
  const { kind, data } = event;
  const backend = kind === 'state' && now.stats?.pools[data.pool]?.backends[data.backend];
  // Statistics of many backends come every five seconds: this is known now.
  if (backend && Date.parse(data.timestamp) > now.at - 1000) {
    backend.state = data.state;
    backend.health.since = data.timestamp;
    backend.health.history.push({ cause: data.cause });
    draw();
  }
  drawEventsSoon();
}

let due = false;
function drawEventsSoon() {
  if (due) return;
  due = true;
  setTimeout(() => { due = false; drawEvents(); if (now.series) drawCharts(); }, 100);
}
function drawEvents() {
  const kind = $('kind').value;
  const known = ['state', 'change', 'reload'];
  const wanted = now.events.filter(e => !kind || e.kind === kind || (kind === 'other' && !known.includes(e.kind)));
  const rows = wanted.slice(-200).reverse().map(event => h('li', {},
    h('time', { datetime: event.data.timestamp, title: event.data.timestamp }, clock(event.data.timestamp)),
    h('span', { class: 'kind' }, event.kind), h('span', { class: isBad(event) ? 'bad' : '' }, words(event))));
  $('event-list').className = rows.length ? 'card' : '';
  $('event-list').replaceChildren(...(rows.length ? rows : [h('li', {}, 'Nothing happened yet.')]));
}

// EventSource cannot send a token.
async function events(last) {
  try {
    const headers = last ? { 'Last-Event-ID': last } : {};
    const response = await ask('events', { headers });
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = '';;) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split('\n').map(row => {
          const at = row.indexOf(':');
          return [row.slice(0, at), row.slice(at + 1).trimStart()];
        }));
        if (!fields.data) continue;
        last = fields.id;
        note({ id: fields.id, kind: fields.event, data: JSON.parse(fields.data) });
      }
    }
  } catch { /* Again below. */ }
  setTimeout(events, 1000, last);
}

// ---- connections

async function connections(event) {
  event?.preventDefault();
  const form = new FormData($('connection-filter'));
  const pairs = [...form].filter(([, value]) => value.trim()).map(([key, value]) => [key, value.trim()]);
  try {
    const answer = await json('connections?' + new URLSearchParams([['limit', 100], ...pairs]));
    text($('connection-count'), answer.total ? `${answer.total} connections match${answer.total > 100 ? ', the 100 oldest are shown' : ''}.` : 'No connection matches.');
    $('connection-table').hidden = !answer.connections.length;
    $('connection-table').tBodies[0].replaceChildren(...answer.connections.map(c => h('tr', {},
      [c.client, c.listener, c.pool || '–', c.backend || '–', c.state].map(v => h('td', {}, v)),
      [span(c.age_seconds), span(c.idle_seconds), short(c.bytes_in, 'B'), short(c.bytes_out, 'B')].map(v => h('td', { class: 'n' }, v)))));
  } catch (error) {
    text($('connection-count'), error.message);
  }
}

// ---- changes

const WHAT = {
  ready: 'It takes new connections again, once its checks pass.',
  drain: 'It takes no new connections; those that it has go on. Checks go on too.',
  maintenance: 'It takes no new connections and is not checked; those that it has go on.',
  weight: 'Its share of new connections changes. 0: it gets none.',
};
function change(pool, name, what) {
  const dialog = $('change-dialog');
  const backend = now.stats.pools[pool]?.backends[name];
  text($('change-title'), { ready: 'Make ready', drain: 'Drain', maintenance: 'Maintenance for', weight: 'Weight of' }[what] + ` ${pool}/${name}`);
  text($('change-what'), `${WHAT[what]} ${short(backend.connections.active)} connections are open.`);
  $('weight-label').hidden = what !== 'weight';
  $('weight').value = backend.weight;
  $('change-error').hidden = true;
  $('change-yes').onclick = async event => {
    event.preventDefault();
    if (what === 'weight' && !$('weight').reportValidity()) return;
    const body = what === 'weight' ? { weight: Number($('weight').value) } : { state: what };
    try {
      await json(`pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(name)}`, {
        method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
      });
      dialog.close('yes');
    } catch (error) {
      text($('change-error'), error.message);
      $('change-error').hidden = false;
    }
  };
  dialog.showModal();
}

$('find').addEventListener('input', () => now.stats && drawPools(Object.entries(now.stats.pools)));
$('kind').addEventListener('change', drawEvents);
$('connection-filter').addEventListener('submit', connections);
drawEvents();
poll();
series();
events();
connections();
setInterval(() => { if (!document.hidden && onScreen($('connections'))) connections(); }, 5000);
