package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the HTTP listener. It has no write deadline: a CPU profile takes as
// long as it was asked to.
const (
	httpHeaderTimeout  = 5 * time.Second
	httpIdleTimeout    = 2 * time.Minute
	httpMaxHeaderBytes = 16 << 10
)

// readiness says whether the gateway takes new work.
type readiness struct {
	ready atomic.Bool
	// also is told of every change.
	also func(bool)
}

func (r *readiness) set(ready bool) {
	r.ready.Store(ready)
	if r.also != nil {
		r.also(ready)
	}
}

// startHTTPOn starts HTTP where a flag says, "" for nowhere.
func (s *server) startHTTPOn(address string) error {
	if address == "" {
		return nil
	}
	on, err := listenTCP(address)
	if err != nil {
		return fmt.Errorf("--http-listen: %w", err)
	}
	s.startHTTP(on)
	return nil
}

func (s *server) startHTTP(on net.Listener) {
	server := &http.Server{
		Handler:           httpHandler(s.metrics, &s.ready),
		ReadHeaderTimeout: httpHeaderTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpMaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	s.lines = append(s.lines, [2]string{"http", on.Addr().String()})
	s.run("http", on,
		func(on net.Listener) error {
			if err := server.Serve(on); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		func(context.Context) error {
			// Nobody loses data with a scrape or a profile cut short.
			return server.Close()
		})
}

func httpHandler(metrics prometheus.Gatherer, ready *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.ready.Load() {
			http.Error(w, "starting or shutting down", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
