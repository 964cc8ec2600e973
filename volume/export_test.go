package volume

func init() { illegalMovePanics = true }
