package main

import (
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// stopSignals delivers the first signal and ends the process at the second.
type stopSignals struct {
	first chan os.Signal

	raw  chan os.Signal
	quit chan struct{}
	done sync.WaitGroup
}

func catchSignals(log *slog.Logger) *stopSignals {
	s := &stopSignals{
		first: make(chan os.Signal, 1),
		raw:   make(chan os.Signal, 2), // the first may still be unread when the second comes
		quit:  make(chan struct{}),
	}
	signal.Notify(s.raw, syscall.SIGTERM, syscall.SIGINT)
	s.done.Go(func() { s.run(log) })
	return s
}

func (s *stopSignals) run(log *slog.Logger) {
	for n := 1; ; n++ {
		select {
		case sig := <-s.raw:
			if n > 1 {
				log.Error("second signal: exiting at once, without flushing", "signal", sig.String())
				os.Exit(exitFailure)
			}
			s.first <- sig
		case <-s.quit:
			return
		}
	}
}

func (s *stopSignals) stop() {
	signal.Stop(s.raw)
	close(s.quit)
	s.done.Wait()
}
