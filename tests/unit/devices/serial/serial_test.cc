#include "devices/serial/serial.h"

#include <gtest/gtest.h>
#include <linux/serial_reg.h>

#include <string>
#include <thread>

namespace spore {
namespace {

class SerialTest : public testing::Test {
  protected:
    void send(std::string_view text) {
        for (char c : text)
            serial.write(UART_TX, static_cast<uint8_t>(c));
    }
    size_t type(std::string_view text) { return serial.push_input(std::as_bytes(std::span(text))); }
    std::string receive() {
        std::string text;
        while (serial.read(UART_LSR) & UART_LSR_DR)
            text += static_cast<char>(serial.read(UART_RX));
        return text;
    }

    std::vector<std::string> output;
    Serial serial{[this](std::span<const std::byte> bytes) {
        output.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }};
};

TEST_F(SerialTest, HandsOutWholeLines) {
    send("Linux version\nconsole");
    EXPECT_EQ(output, std::vector<std::string>{"Linux version\n"});
    serial.flush();
    EXPECT_EQ(output.back(), "console");
    serial.flush();
    EXPECT_EQ(output.size(), 2u);
}

TEST_F(SerialTest, HandsOutALongLineInPieces) {
    send(std::string(Serial::kOutputBytes + 1, 'x'));
    ASSERT_EQ(output.size(), 1u);
    EXPECT_EQ(output[0].size(), Serial::kOutputBytes);
}

TEST_F(SerialTest, IsAlwaysReadyToSend) {
    send("x");
    EXPECT_EQ(serial.read(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

TEST_F(SerialTest, ReceivesWhatIsTyped) {
    EXPECT_EQ(type("uname\n"), 6u);
    EXPECT_EQ(receive(), "uname\n");
    EXPECT_EQ(serial.read(UART_RX), 0);
}

TEST_F(SerialTest, TakesNoMoreInputThanItHolds) {
    std::string much(Serial::kInputBytesMax, 'a');
    EXPECT_EQ(type("12345"), 5u);
    EXPECT_EQ(type(much), Serial::kInputBytesMax - 5);
    EXPECT_EQ(type("6"), 0u);
    EXPECT_EQ(receive().size(), Serial::kInputBytesMax);
    EXPECT_EQ(type("6"), 1u);
}

// The probes of Linux's 8250 driver (autoconfig), in its order.
TEST_F(SerialTest, ProbesAs16550A) {
    serial.write(UART_IER, 0);
    EXPECT_EQ(serial.read(UART_IER) & 0x0f, 0);
    serial.write(UART_IER, 0x0f);
    EXPECT_EQ(serial.read(UART_IER), 0x0f);
    serial.write(UART_IER, 0xff);
    EXPECT_EQ(serial.read(UART_IER), 0x0f) << "no XScale";
    serial.write(UART_IER, 0);

    serial.write(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
    EXPECT_EQ(serial.read(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
    serial.write(UART_MCR, 0);

    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO);
    EXPECT_EQ(serial.read(UART_IIR) >> 6, 3) << "16550A, not 16450";
    serial.write(UART_SCR, 0xa5);
    EXPECT_EQ(serial.read(UART_SCR), 0xa5) << "not 8250";

    serial.write(UART_LCR, UART_LCR_CONF_MODE_A);
    EXPECT_NE(serial.read(UART_EFR), 0) << "no 16650";
    serial.write(UART_LCR, UART_LCR_CONF_MODE_B);
    EXPECT_NE(serial.read(UART_EFR), 0) << "no 16650 V2";

    // size_fifo(): what comes back of 256 bytes sent in loopback.
    serial.write(UART_LCR, 0);
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
    serial.write(UART_MCR, UART_MCR_LOOP);
    for (int count = 0; count < 256; count++)
        serial.write(UART_TX, static_cast<uint8_t>(count));
    EXPECT_EQ(receive().size(), Serial::kFifoBytes);
    serial.write(UART_MCR, 0);
    EXPECT_TRUE(output.empty()) << "loopback stays inside";
}

TEST_F(SerialTest, KeepsTheDivisorBehindItsLatch) {
    serial.write(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
    serial.write(UART_DLL, 0x0c);
    serial.write(UART_DLM, 0x01);
    EXPECT_EQ(serial.read(UART_DLL), 0x0c);
    EXPECT_EQ(serial.read(UART_DLM), 0x01);
    serial.write(UART_LCR, UART_LCR_WLEN8);
    EXPECT_EQ(serial.read(UART_IER), 0);
    serial.flush();
    EXPECT_TRUE(output.empty());
}

// Without an interrupt line Linux asks on a timer whether there would be an interrupt.
TEST_F(SerialTest, TellsPollersWhatWouldInterrupt) {
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_NO_INT);
    type("x");
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_NO_INT) << "not asked for";
    serial.write(UART_IER, UART_IER_RDI | UART_IER_THRI);
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_RDI);
    receive();
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_THRI);
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_NO_INT) << "acknowledged";
    send("x");
    EXPECT_EQ(serial.read(UART_IIR), UART_IIR_THRI);
}

TEST_F(SerialTest, ClearsInputWhenTold) {
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO);
    type("stale");
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    EXPECT_EQ(receive(), "");
}

TEST_F(SerialTest, AnswersRegistersThatAreNotThere) {
    EXPECT_EQ(serial.read(8), 0xff);
    serial.write(8, 1);
    serial.write(UART_LSR, 0);
    serial.write(UART_MSR, 0);
    EXPECT_EQ(serial.read(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

TEST_F(SerialTest, RestoresWhatItSaved) {
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO);
    serial.write(UART_LCR, UART_LCR_DLAB);
    serial.write(UART_DLL, 3);
    serial.write(UART_LCR, UART_LCR_WLEN8);
    serial.write(UART_IER, UART_IER_RDI);
    serial.write(UART_MCR, UART_MCR_LOOP);
    serial.write(UART_SCR, 0x5a);
    send("ab");
    type("cd");
    SerialState saved = serial.save();
    Serial other([](std::span<const std::byte>) {});
    ASSERT_TRUE(other.restore(saved).has_value());
    EXPECT_TRUE(other.save() == saved);
    EXPECT_EQ(other.read(UART_RX), 'a');
    other.write(UART_MCR, 0);
    EXPECT_EQ(other.read(UART_RX), 'c');
}

TEST_F(SerialTest, FlushesBeforeItIsSaved) {
    send("login: ");
    serial.save();
    EXPECT_EQ(output, std::vector<std::string>{"login: "});
}

TEST_F(SerialTest, RefusesAStateThatCannotBe) {
    auto refused = [&](auto change) {
        SerialState state = serial.save();
        change(state);
        auto restored = serial.restore(state);
        return !restored && restored.error().code == Code::corrupt;
    };
    EXPECT_FALSE(refused([](SerialState&) {}));
    EXPECT_TRUE(refused([](SerialState& s) { s.interrupt_enable = 0x10; }));
    EXPECT_TRUE(refused([](SerialState& s) { s.modem_control = 0x20; }));
    EXPECT_TRUE(refused([](SerialState& s) { s.input.resize(Serial::kInputBytesMax + 1); }));
    EXPECT_TRUE(refused([](SerialState& s) { s.loopback.resize(1); }));
}

TEST_F(SerialTest, ServesSeveralThreads) {
    std::thread typist([&] {
        for (int count = 0; count < 1000; count++)
            type("k");
    });
    size_t received = 0;
    for (int count = 0; count < 1000; count++) {
        send("line\n");
        received += receive().size();
    }
    typist.join();
    EXPECT_EQ(received + receive().size(), 1000u);
    EXPECT_EQ(output.size(), 1000u);
}

}  // namespace
}  // namespace spore
