package target

import "context"

// DropForgotten does what the server does every hour.
func (s *Server) DropForgotten(ctx context.Context) error { return s.dropForgotten(ctx) }
