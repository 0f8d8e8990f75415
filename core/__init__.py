"""The ground floor: engine, atomic files, ids, metrics, errors, configuration and progress; knows nothing of video."""
