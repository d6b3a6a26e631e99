-- Requests for wrk: METHOD PATH BODY ROWS, as in `Request` of load.py.
local method, path, body, rows

function init(arguments)
   math.randomseed(os.time())
   method, path, body, rows = arguments[1], arguments[2], arguments[3], tonumber(arguments[4])
   wrk.headers["X-User"] = "bench"
   if body == "" then
      body = nil
   else
      wrk.headers["Content-Type"] = "application/json"
   end
end

function request()
   -- In brackets: gsub returns two values.
   local place = (path:gsub("{key}", math.random(rows)))
   return wrk.format(method, place, nil, body and (body:gsub("{number}", math.random(1000000000))))
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"answers": %d, "refused": %d, "broken": %d, "seconds": %f, "median_ms": %f, "p99_ms": %f}\n',
      summary.requests - errors.status, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
   ))
end
